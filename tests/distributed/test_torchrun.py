"""Many processes against one: the same batches, the same losses, the same bits; stopped, killed, resumed."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import GPT2LMHeadModel

from gpt2 import GPT2Config, load
from gpt2.checkpoint.store import newest_checkpoint
from gpt2.settings import TrainSettings
from gpt2.training.footprint import footprint
from gpt2.training.run import assemble
from gpt2.training.session import Session
from tests.distributed.conftest import TINY, WORKER
from tests.faults.harness import FULL

pytestmark = pytest.mark.slow

Jobs = Callable[..., subprocess.CompletedProcess[str]]


def saw(home: Path, name: str, ranks: int = 2) -> list[dict[str, Any]]:
    return [json.loads((home / f"{name}.{rank}.json").read_text()) for rank in range(ranks)]


def final_loss(home: Path, name: str) -> float:
    """Of the last validation, by every process over its part of the documents."""
    records = [json.loads(line) for line in (home / name / "training/metrics.jsonl").read_text().splitlines()]
    return [record["valid_loss"] for record in records if "valid_loss" in record][-1]


def last(home: Path, name: str) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoint, whole."""
    checkpoint, skipped = newest_checkpoint(home / name / "training/checkpoints")
    assert checkpoint is not None
    assert not skipped
    groups = {group: checkpoint.tensors(group) for group in ("model", "average", "optimizer")}
    return {f"{group}/{key}": value for group, tensors in groups.items() for key, value in tensors.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def alone(home: Path, **settings: Any) -> Session:
    """A run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_CACHE", str(home / "cache"))
        session = assemble(TrainSettings.make(**settings), progress=False)
    assert session is not None
    return session


@pytest.fixture(scope="module")
def one(two: Path) -> Path:
    """The same by one process."""
    for name, optimizer in (("one", "muon"), ("one-adamw", "adamw")):
        alone(two, **TINY, text=[str(two / "stories.txt")], out=str(two / name), optimizer=optimizer).fit()
    return two


@pytest.mark.parametrize(("name", "ranks"), [("ddp", 2), ("fsdp", 2), ("ddp-4", 4), ("fsdp-4", 4), ("hsdp-4", 4)])
def test_each_step_has_the_same_tokens_for_any_number_of_processes(four: Path, name: str, ranks: int) -> None:
    loader = alone(four, **TINY, text=[str(four / "stories.txt")], out=str(four / "none")).loader
    shares = [share["batches"] for share in saw(four, name, ranks)]
    for step in range(8):
        whole = loader.batch(step)
        assert all(share[str(step)] for share in shares)
        dealt = [tuple(pair) for share in shares for pair in share[str(step)]]
        assert sorted(dealt) == sorted(zip(whole.ids[0].tolist(), whole.targets[0].tolist(), strict=True))


def test_the_loss_is_that_of_one_process(one: Path, four: Path) -> None:
    del four
    pairs = [(name, "one-adamw") for name in ("ddp-adamw", "fsdp-adamw", "ddp-adamw-4", "fsdp-adamw-4")]
    pairs += [(name, "one") for name in ("ddp", "fsdp", "ddp-4", "fsdp-4", "hsdp-4")]
    differences = {name: abs(final_loss(one, name) - final_loss(one, whole)) for name, whole in pairs}
    print("\n" + ", ".join(f"{name} {difference:.0e}" for name, difference in differences.items()))
    assert max(differences.values()) < 1e-5


def test_the_same_again_is_the_same_bit_for_bit(one: Path, four: Path) -> None:
    """Bar 3. Of one process test_train has it too."""
    for name in ("ddp", "fsdp", "ddp-4", "fsdp-4"):
        assert same(last(four, name), last(four, f"{name}-again"))
        assert final_loss(four, name).hex() == final_loss(four, f"{name}-again").hex()
    assert not same(last(one, "ddp"), last(one, "ddp-nan"))


def test_divided_weights_are_saved_by_all_and_read_by_one(two: Path) -> None:
    folder = sorted((two / "fsdp/training/checkpoints").iterdir())[-1]
    files = {path.name for path in folder.iterdir()}
    parts = {f"{group}-0000{n}-of-00002.safetensors" for group in ("model", "average", "optimizer") for n in (1, 2)}
    indices = {f"{group}.index.json" for group in ("model", "average", "optimizer")}
    assert files == {*parts, *indices, "state.json", "manifest.json"}
    assert {*json.loads((folder / "manifest.json").read_text())["files"]} == files - {"manifest.json"}
    index = json.loads((folder / "model.index.json").read_text())["tensors"]
    assert index["transformer.wte.weight"]["rows"] == 448
    assert len(index["transformer.wte.weight"]["files"]) == 2
    model, _ = load(two / "fsdp")
    theirs = GPT2LMHeadModel.from_pretrained(two / "fsdp").eval()
    ids = torch.arange(50)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=0)


def test_state_of_divided_weights_is_what_each_of_two_saves(two: Path) -> None:
    """As docs/scaling.md computes it."""
    config = GPT2Config(vocab_size=448, context_length=64, d_model=32, num_layers=2, num_heads=2)
    need = footprint(config, "fsdp", 2, 2)
    folder = sorted((two / "fsdp/training/checkpoints").iterdir())[-1]
    for part in ("00001-of-00002", "00002-of-00002"):
        held = {}
        for group in ("model", "optimizer", "average"):
            with safe_open(folder / f"{group}-{part}.safetensors", framework="pt") as file:
                tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - not a dict
            held[group] = sum(4 * tensor.numel() for tensor in tensors if tensor.ndim)
        assert (held["model"], held["optimizer"], held["average"]) == (need.weights, need.optimizer, need.average)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_number_that_is_none_in_one_process_is_passed_over_by_all(two: Path, kind: str) -> None:
    assert [share["skipped"] for share in saw(two, f"{kind}-nan")] == [1, 1]
    assert all(value.isfinite().all() for value in last(two, f"{kind}-nan").values())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_sigterm_to_one_process_stops_all_after_the_same_step(two: Path, kind: str) -> None:
    """And resumed by as many, the run ends with the bits of one that was never stopped."""
    assert [(share["step"], share["ended"]) for share in saw(two, f"{kind}-stopped")] == [(5, "143")] * 2
    assert json.loads((two / f"{kind}-stopped/training/stopped.json").read_text()) == {"signal": "SIGTERM", "step": 5}
    assert same(last(two, f"{kind}-by-two"), last(two, kind))
    assert same(last(two, "dropout-by-two"), last(two, "dropout"))


def test_sigterm_to_torchrun_saves_one_step_of_all(two: Path) -> None:
    steps = {share["step"] for share in saw(two, "scheduled")}
    assert len(steps) == 1
    assert 5 <= steps.pop() < 40
    assert {share["ended"] for share in saw(two, "scheduled")} == {"143"}
    assert same(last(two, "scheduled-on"), last(two, "scheduled-whole"))


@pytest.mark.skipif(not FULL, reason="two more launches: make faults")
def test_a_save_slower_than_the_time_torchrun_gives_costs_only_itself(
    two: Path, launch: Jobs, train_jobs: Jobs
) -> None:
    """F7c: SIGTERM, one second, SIGKILL in the middle of the save; what was saved before is whole, and resuming exact."""
    job = {**TINY, "text": [str(two / "stories.txt")], "out": str(two / "slow"), "save_every": 3, "steps": 40}
    (two / "slow-jobs.json").write_text(json.dumps([{**job, "stop_all": 4, "slow": True}]))
    result = launch(2, "--shutdown-timeout=1", str(WORKER), str(two / "slow-jobs.json"))
    assert result.returncode == 1
    assert not (two / "slow.0.json").exists(), "killed before it could tell"
    checkpoints = two / "slow/training/checkpoints"
    checkpoint, skipped = newest_checkpoint(checkpoints)
    assert checkpoint is not None
    assert (checkpoint.step, skipped) == (3, [])
    assert not (two / "slow/training/stopped.json").exists()
    result = train_jobs(2, {"slow-on": {"copy": "slow"}, "slow-whole": {"save_every": 3, "steps": 40}})
    assert result.returncode == 0, result.stderr
    assert same(last(two, "slow-on"), last(two, "slow-whole"))
    assert not list((two / "slow-on/training/checkpoints").glob(".step-*"))


def test_another_number_of_processes_resumes(one: Path, four: Path) -> None:
    """F9: one to two, two to four and to one, copies to rows and rows to copies; also what four wrote, by one."""
    losses = {}
    for kind in ("ddp", "fsdp"):
        shutil.copytree(four / f"{kind}-stopped", four / f"{kind}-by-one")
        alone(four, resume=str(four / f"{kind}-by-one")).fit()
        losses |= {name: final_loss(four, name) for name in (f"one-by-two-{kind}", f"{kind}-by-four", f"{kind}-by-one")}
    differences = {name: abs(loss - final_loss(one, "one")) for name, loss in losses.items()}
    print("\n" + ", ".join(f"{name} {difference:.0e}" for name, difference in differences.items()))
    assert max(differences.values()) < 1e-5
    names = {path.name for path in sorted((four / "ddp-by-four/training/checkpoints").iterdir())[-1].iterdir()}
    assert "model-00004-of-00004.safetensors" in names
    session = alone(four, resume=str(four / "ddp-by-four"))
    session.fit()
    assert same(last(four, "ddp-by-four"), {
        **{f"model/{name}": p.detach() for name, p in session.model.named_parameters()},
        **{f"average/{name}": p for name, p in session.average.state_dict().items()},
        **{f"optimizer/{name}": p for name, p in session.optimizer.state_dict().items()},
    })  # fmt: skip


def test_replicas_write_once_and_the_run_is_finished_as_one_folder(four: Path) -> None:
    names = {path.name for path in sorted((four / "hsdp-4/training/checkpoints").iterdir())[-1].iterdir()}
    assert "model-00002-of-00002.safetensors" in names
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in (four / "hsdp-4").iterdir()
    }
    records = (four / "hsdp-4/training/metrics.jsonl").read_text().splitlines()
    assert len({json.loads(line).get("valid_loss") for line in records} - {None}) == 2


def test_a_time_budget_means_the_same_steps_for_all(two: Path) -> None:
    first, second = saw(two, "minutes")
    assert first["step"] == second["step"] > 0


def test_killed_process_the_others_begin_again_from_the_last_checkpoint(two: Path) -> None:
    shares = saw(two, "killed")
    assert [(share["step"], share["ended"]) for share in shares] == [(8, "done")] * 2
    first, second = (min(map(int, share["batches"])) for share in shares)
    assert first == second  # where they began again: what rank 0 saved when it lost the other, or else a checkpoint
    assert 0 < first <= 7
    assert same(last(two, "killed"), last(two, "ddp"))


@pytest.mark.skipif(not FULL, reason="two more launches each: make faults")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_killed_process_without_restarts_ends_the_others(kind: str, two: Path, train_jobs: Jobs) -> None:
    """F22: nobody waits for it; what was saved stays, and resuming is exact."""
    name = f"{kind}-lost"
    result = train_jobs(2, {name: {"die": [1, 7], "save_every": 3, "parallel": kind}})
    assert result.returncode == 1
    checkpoint, skipped = newest_checkpoint(two / name / "training/checkpoints")
    assert checkpoint is not None
    assert (3 <= checkpoint.step <= 7, skipped) == (True, [])
    result = train_jobs(2, {f"{name}-on": {"copy": name}})
    assert result.returncode == 0, result.stderr
    assert same(last(two, f"{name}-on"), last(two, kind))


def test_what_is_wrong_is_said_once(home: Path, launch: Jobs) -> None:
    result = launch(2, "-m", "gpt2", "train", str(home / "missing.txt"), "--out", str(home / "wrong"))
    assert result.returncode != 0
    assert result.stderr.count("gpt2: error: ") == 1
    assert "missing.txt" in result.stderr
    assert not (home / "wrong").exists()
