"""The main job: text in, a model folder out; stopped, resumed, fine-tuned."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from gpt2 import Tokenizer, load, train
from gpt2.checkpoint.store import newest_checkpoint
from gpt2.errors import CheckpointError, ConfigError, DivergedError, UserError
from gpt2.training.hooks import Validation
from tests.faults.harness import PATIENCE
from tests.integration.breaking import break_off
from tests.stories import write_stories

TINY: dict[str, Any] = {
    "d_model": 32, "num_layers": 2, "num_heads": 2, "context_length": 64, "vocab_size": 400, "batch_size": 8,
    "progress": False, "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty stories: each run judges a tenth of them, some times over."""
    return write_stories(tmp_path_factory.mktemp("text") / "stories.txt", 60)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "training/metrics.jsonl").read_text().splitlines()]
    return [record["valid_loss"] for record in records if "valid_loss" in record]


@pytest.mark.parametrize(("steps", "lr", "better"), [(30, 0.02, "model"), (240, 0.5, "average")])
def test_the_last_weights_are_kept_or_their_average_whichever_is_better(
    tmp_path: Path, steps: int, lr: float, better: str
) -> None:
    """A short run ends on its way down; one whose steps are too large gains by averaging them."""
    text = write_stories(tmp_path / "stories.txt", 150)  # of fewer too much is learned by heart
    run = train([text], out=tmp_path / "m", steps=steps, lr=lr, evals=1, **TINY)
    assert run is not None
    checkpoint, _ = newest_checkpoint(tmp_path / "m/training/checkpoints")
    assert checkpoint is not None
    kept = {
        group: all(
            torch.equal(tensor, checkpoint.tensors(group)[name]) for name, tensor in run.model.named_parameters()
        )
        for group in ("model", "average")
    }
    assert kept == {group: group == better for group in kept}


def test_run_leaves_a_whole_folder_that_others_open(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "mine"
    run = train([text], out=out, steps=60, evals=4, **TINY)
    assert run is not None
    assert run.steps == 60
    names = {
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.is_file() and not {"checkpoints", "snapshots"} & set(path.parts)
    }
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "README.md", "training/config.toml", "training/metrics.jsonl", "training/samples.md", "training/loss.svg",
        "training/environment.json", "training/evaluation.json", "training/report.html", "training/manifest.json",
    }  # fmt: skip
    valid = losses(out)
    assert len(valid) == 4
    assert valid[-1] < 0.8 * valid[0] or valid[-1] < 5.0
    theirs, report = GPT2LMHeadModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    model, tokenizer = load(out)
    their_tokenizer = AutoTokenizer.from_pretrained(out)
    story = 'Once upon a time, Lily\'s cat — a big one — said: "Hello!"\n'
    assert tokenizer.encode(story) == their_tokenizer.encode(story)
    ids = torch.tensor([tokenizer.encode(story)])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs.eval()(ids).logits, atol=1e-5, rtol=0)
    assert model.config.eos_token_id == their_tokenizer.eos_token_id == tokenizer.eos_token_id


def test_same_seed_same_weights_and_the_stored_settings_run_again(text: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    train([text], out=first, steps=12, seed=3, **TINY)
    train(config=first / "training/config.toml", out=second, progress=False)
    assert weights_hash(first) == weights_hash(second)
    manifest = json.loads((first / "training/manifest.json").read_text())["files"]
    assert manifest["model.safetensors"]["sha256"] == weights_hash(first)
    train([text], out=tmp_path / "c", steps=12, seed=4, **TINY)
    assert weights_hash(tmp_path / "c") != weights_hash(first)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """With dropout, micro-batches and epoch ends; broken off by an exception in the middle."""
    options = {**TINY, "dropout": 0.2, "optimizer": optimizer, "micro_batch_tokens": 200, "epochs": 1.5, "evals": 4}
    whole = train([text], out=tmp_path / "whole", **options)
    assert whole is not None
    break_off(text, tmp_path / "broken", whole.steps // 2, monkeypatch, **options)
    resumed = train(resume=tmp_path / "broken", progress=False)
    assert resumed is not None
    assert resumed.steps == whole.steps
    assert weights_hash(tmp_path / "whole") == weights_hash(tmp_path / "broken")
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    last = [newest_checkpoint(tmp_path / name / "training/checkpoints")[0] for name in ("whole", "broken")]
    for name, value in last[0].tensors("optimizer").items():
        assert torch.equal(value, last[1].tensors("optimizer")[name])


def test_resume_refuses_other_settings_other_text_and_nothing(text: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
    train([own], out=tmp_path / "run", steps=4, **TINY)
    with pytest.raises(ConfigError, match="drop --lr"):
        train(resume=tmp_path / "run", lr=0.1)
    with pytest.raises(CheckpointError, match=r"no run to resume at .*Did you mean 'run'"):
        train(resume=tmp_path / "rnu")
    own.write_text(own.read_text(encoding="utf-8") + "\n<|endoftext|>\nOne more story about zebras.", encoding="utf-8")
    with pytest.raises(CheckpointError, match="changed since"):
        train(resume=tmp_path / "run", progress=False)


def test_finished_run_is_not_overwritten_unless_asked(text: Path, tmp_path: Path) -> None:
    train([text], out=tmp_path / "run", steps=3, **TINY)
    before = weights_hash(tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        train([text], out=tmp_path / "run", steps=3, **TINY)
    assert weights_hash(tmp_path / "run") == before
    train([text], out=tmp_path / "run", steps=3, seed=9, overwrite=True, **TINY)
    assert weights_hash(tmp_path / "run") != before


def test_fine_tuning_keeps_the_tokenizer_and_improves_on_its_text(text: Path, tmp_path: Path) -> None:
    train([text], out=tmp_path / "base", steps=30, **TINY)
    other = tmp_path / "other.txt"
    other.write_text("\n<|endoftext|>\n".join(f"Number {i} is the number after {i - 1}." for i in range(300)))
    options = {"steps": 30, "progress": False, "dtype": "float32", "batch_size": 8, "evals": 3}
    run = train([other], out=tmp_path / "tuned", from_model=tmp_path / "base", **options)
    assert run is not None
    assert run.tokenizer.fingerprint == Tokenizer.load(tmp_path / "base").fingerprint
    assert losses(tmp_path / "tuned")[-1] < losses(tmp_path / "tuned")[0]
    with pytest.raises(ConfigError, match="fine-tuning cannot change it"):
        train([other], out=tmp_path / "no", from_model=tmp_path / "base", d_model=64, progress=False)


def test_fine_tuning_takes_its_dropout_and_kernels_and_resumes_bit_for_bit(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train([text], out=tmp_path / "base", steps=4, **TINY)
    options = {"dropout": 0.3, "kernels": "reference", "progress": False, "dtype": "float32", "steps": 8, "evals": 4}
    options |= {"from_model": tmp_path / "base", "batch_size": 4}
    whole = train([text], out=tmp_path / "whole", **options)
    assert whole is not None
    assert (whole.model.config.dropout, whole.model.transformer.drop.p) == (0.3, 0.3)
    assert whole.model.kernels.name == "reference"
    break_off(text, tmp_path / "broken", 5, monkeypatch, **options)
    train(resume=tmp_path / "broken", progress=False)
    assert weights_hash(tmp_path / "whole") == weights_hash(tmp_path / "broken")
    with pytest.raises(ConfigError, match="drop --from"):
        train(resume=tmp_path / "broken", from_model=tmp_path / "base")


@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_resuming_writes_lost_weights_anew(
    harm: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train([text], out=out, steps=6, **TINY)
    before, content = weights_hash(out), bytearray((out / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 4
    (out / "model.safetensors").write_bytes(content) if harm == "flip" else (out / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is not what the run wrote" if harm == "flip" else "has no model"):
        load(out)
    train(resume=out)
    told = capsys.readouterr().out
    assert f"{before[:6]}" in told or harm == "delete"
    assert "the best weights of the run are lost" in told
    load(out)
    assert weights_hash(out) == before, "the last weights were the best"


def test_time_budget_is_kept_and_the_schedule_ends_at_zero(text: Path, tmp_path: Path) -> None:
    run = train([text], out=tmp_path / "run", minutes=0.15, evals=5, **TINY)
    assert run is not None
    records = [json.loads(line) for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "lr_factor" in record]
    factors = [record["lr_factor"] for record in steps[1:]]
    assert factors == sorted(factors, reverse=True)  # the warm-up is over after the first of ten steps or so
    assert run.steps == steps[-1]["step"]
    assert 1 <= len(losses(tmp_path / "run")) <= 5  # a slow machine makes fewer steps than validations


def test_patience_stops_a_run_that_gets_no_better(text: Path, tmp_path: Path) -> None:
    run = train([text], out=tmp_path / "run", steps=100, evals=50, patience=2, lr=3.0, optimizer="adamw", **TINY)
    assert run is not None
    assert run.steps < 100


def test_divergence_is_reported_and_keeps_the_last_good_weights(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Validation.__call__

    def poison(self: Validation, trainer: Any, result: Any) -> None:
        original(self, trainer, result)
        if trainer.state.step == 10:
            with torch.no_grad():
                self.model.transformer.wte.weight[0, 0] = torch.inf

    monkeypatch.setattr(Validation, "__call__", poison)
    with pytest.raises(DivergedError, match="already met 3 times by going back") as caught:
        train([text], out=tmp_path / "run", steps=40, evals=8, **TINY)
    assert caught.value.exit_code == 3
    model, _ = load(tmp_path / "run")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.skipif(os.name == "nt", reason="Windows sends signals to processes in another way")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_leaves_a_model_that_works(text: Path, tmp_path: Path, number: int, status: int) -> None:
    out = tmp_path / "run"
    options = ["--steps", "100000", "--evals", "1", "--d-model", "32", "--num-layers", "1", "--num-heads", "2"]
    sizes = ["--context-length", "64", "--vocab-size", "400", "--batch-size", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2", "train", str(text), "--out", str(out), *options, *sizes],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    metrics = out / "training/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, errors
    assert f"everything is saved; go on with: gpt2 train --resume {out}" in errors
    assert "Traceback" not in errors
    model, tokenizer = load(out)
    assert model.generate(torch.tensor([tokenizer.encode("The")]), 3).shape[1] >= 4
    assert newest_checkpoint(out / "training/checkpoints")[0] is not None
