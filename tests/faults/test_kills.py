"""Faults F2, F7, F14, F18, F23: killed, stopped, asked; what is there afterwards is whole, and resuming is exact."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from gpt2 import load
from gpt2.checkpoint.store import newest_checkpoint
from gpt2.data import iter_documents, prepare_corpus, survey
from gpt2.errors import GPT2Error
from gpt2.tokenizer import Tokenizer, bulk, parallel
from tests.faults.harness import (
    FULL,
    PATIENCE,
    digest,
    hashes,
    kill,
    needs_fork,
    records,
    start,
    steps_saved,
    train_in,
    wait_for,
)

pytestmark = needs_fork
ROUNDS = 50 if FULL else 5


def test_killed_at_random_moments_the_run_ends_with_the_same_bits(
    tmp_path: Path, options: dict[str, object], reference: dict[str, str]
) -> None:
    """F2: each round is killed somewhere after its next checkpoint, in the middle of whatever it does then."""
    draw, folder, kills, round_ = random.Random(0), tmp_path / "run", 0, 0
    while kills < ROUNDS:
        round_ += 1
        assert round_ < 4 * ROUNDS
        before = (steps_saved(folder) or [0])[-1]
        if before >= 36:  # too near its end for another kill: let it end, compare, and begin anew
            process = start(train_in, str(folder), options)
            process.join(PATIENCE)
            assert process.exitcode == 0
            assert hashes(folder) == reference
            folder = tmp_path / f"run{round_}"
            continue
        process = start(train_in, str(folder), options)
        wait_for(lambda b=before, f=folder: (steps_saved(f) or [0])[-1] > b, process)
        time.sleep(draw.uniform(0, 0.1))
        if process.is_alive():
            kill(process)
            kills += 1
        assert newest_checkpoint(folder / "training/checkpoints")[0] is not None
        assert steps_saved(folder)[-1] > before, "each round gets further"
    process = start(train_in, str(folder), options, None, True)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert hashes(folder) == reference
    assert not list((folder / "training/checkpoints").glob(".step-*")), "what the dead left is cleared away"
    assert not list(folder.rglob(".*.tmp-*"))
    assert not (folder / "training/lock").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_rest_is_the_same(
    number: int, status: int, tmp_path: Path, options: dict[str, object], reference: dict[str, str]
) -> None:
    """F7a."""
    folder = tmp_path / "run"
    process = start(train_in, str(folder), {**options, "save_every": 1000})
    wait_for(lambda: (folder / "training/metrics.jsonl").exists() and records(folder), process)
    assert kill(process, number) == status
    stopped = json.loads((folder / "training/stopped.json").read_text())
    assert stopped == {"signal": signal.Signals(number).name, "step": steps_saved(folder)[-1]}
    assert not (folder / "training/lock").exists()
    model, tokenizer = load(folder)
    assert model.generate(torch.tensor([tokenizer.encode("The")]), 2).shape[1] >= 3
    process = start(train_in, str(folder), options)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert hashes(folder) == reference
    assert not (folder / "training/stopped.json").exists()


def endless_save(folder: str, options: dict[str, object]) -> None:
    """A disk that never says that it is done; a file `saving` tells that the last save is being waited for."""
    from gpt2.checkpoint import store
    from gpt2.training.saving import Saving

    finish = Saving.finish
    Saving.finish = lambda self, trainer: (Path(folder, "saving").touch(), finish(self, trainer))[1]  # type: ignore
    store.sync = lambda path: time.sleep(10 * PATIENCE)
    train_in(folder, options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_harms_nothing(
    number: int, tmp_path: Path, options: dict[str, object]
) -> None:
    """F7a: after the first signal it waits for the last save, however long; the second does not."""
    folder = tmp_path / "run"
    process = start(train_in, str(folder), {**options, "save_every": 4, "steps": 100_000})
    wait_for(lambda: steps_saved(folder), process)
    assert kill(process, signal.SIGKILL) == -9
    before = steps_saved(folder)[-1]
    process = start(endless_save, str(folder), options)
    wait_for(lambda: list((folder / "training/checkpoints").glob(".step-*.tmp-*")), process)
    os.kill(process.pid, number)
    wait_for((folder / "saving").exists, process)
    assert kill(process, number) == 128 + number
    checkpoint, _ = newest_checkpoint(folder / "training/checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == before


def test_files_and_sigusr1_ask_a_running_training(tmp_path: Path, options: dict[str, object]) -> None:
    folder = tmp_path / "run"
    process = start(train_in, str(folder), {**options, "save_every": 10**6, "steps": 10**6, "evals": 1})
    wait_for(lambda: (folder / "training/metrics.jsonl").exists() and records(folder), process)
    (folder / "SAVE").touch()
    wait_for(lambda: steps_saved(folder), process)
    first = steps_saved(folder)
    os.kill(process.pid, signal.SIGUSR1)
    wait_for(lambda: len(steps_saved(folder)) == 2, process)
    assert process.is_alive()
    (folder / "STOP").touch()
    process.join(PATIENCE)
    assert process.exitcode == 143
    assert steps_saved(folder)[-1] > first[-1]
    assert not (folder / "SAVE").exists()
    assert not (folder / "STOP").exists()
    assert json.loads((folder / "training/stopped.json").read_text())["signal"] == "SIGTERM"


def test_a_second_trainer_is_refused_and_the_first_goes_on(tmp_path: Path, options: dict[str, object]) -> None:
    """F18, F14."""
    folder = tmp_path / "run"
    process = start(train_in, str(folder), {**options, "steps": 10**6})
    wait_for(lambda: steps_saved(folder), process)
    other = start(train_in, str(folder), options, str(tmp_path / "said"))
    other.join(PATIENCE)
    assert other.exitcode == 2
    assert f"another training works in {folder}: process {process.pid} on" in (tmp_path / "said").read_text()
    assert process.is_alive()
    reached = steps_saved(folder)[-1]
    wait_for(lambda: steps_saved(folder)[-1] > reached, process)
    kill(process)
    (folder / "training/checkpoints/step-notes.txt").write_text("a stray file")
    again = start(train_in, str(folder), options, str(tmp_path / "again"))
    said = tmp_path / "again"
    wait_for(lambda: said.exists() and "taken over from process" in said.read_text(), again)
    assert f"process {process.pid} on" in (tmp_path / "again").read_text()
    reached = steps_saved(folder)[-1]
    wait_for(lambda: steps_saved(folder)[-1] > reached, again)
    assert kill(again, signal.SIGTERM) == 143


def failing_hook(folder: str, options: dict[str, object]) -> None:
    """A bug in the middle of training."""
    from gpt2.training.hooks import Validation

    original = Validation.__call__

    def broken(self: Validation, trainer: object, result: object) -> None:
        original(self, trainer, result)  # type: ignore[arg-type]
        if trainer.state.step == 18:  # type: ignore[attr-defined]
            raise RuntimeError("a bug")

    Validation.__call__ = broken  # type: ignore[method-assign]
    train_in(folder, options)


def test_an_exception_saves_first(tmp_path: Path, options: dict[str, object], reference: dict[str, str]) -> None:
    folder = tmp_path / "run"
    process = start(failing_hook, str(folder), {**options, "save_every": 1000})
    process.join(PATIENCE)
    assert process.exitcode == 1
    assert steps_saved(folder) == [18]
    process = start(train_in, str(folder), options)
    process.join(PATIENCE)
    assert hashes(folder) == reference


@pytest.mark.parametrize("workers", [2, 4])
def test_a_killed_tokenising_process_costs_only_what_was_not_finished(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F23: each worker in turn is killed in the middle; the next run makes the missing shards, and the same bytes."""
    monkeypatch.setenv("GPT2_FAST", "0")
    monkeypatch.setattr(parallel, "BATCH_CHARACTERS", 2000)
    monkeypatch.setattr(bulk, "_WORTH_PROVING", 2000)  # else so small a text starts no worker
    stories = [story for _, story in zip(range(200), iter_documents(), strict=False)]
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    tokenizer = Tokenizer.train(stories, 400)
    corpus = survey([tmp_path / "text.txt"], cache=tmp_path / "surveys", progress=False)

    def made(cache: Path, workers: int) -> dict[str, str]:
        prepared = prepare_corpus(corpus, tokenizer, cache=cache, shard_ids=2500, workers=workers, progress=False)
        files = sorted(path for path in prepared.train.folder.parent.rglob("*") if path.is_file())
        return {str(path.relative_to(cache)): digest(path) for path in files}

    clean, start_worker = made(tmp_path / "clean", 1), parallel._start_worker
    for victim in range(workers):
        cache, started = tmp_path / f"killed-{victim}", []

        def watched(cache: Path = cache, started: list = started, victim: int = victim):  # type: ignore[type-arg]
            started.append(start_worker())
            if len(started) == workers:
                threading.Thread(target=kill_later, args=(started[victim], cache), daemon=True).start()
            return started[-1]

        with monkeypatch.context() as patch:
            patch.setattr(parallel, "_start_worker", watched)
            with pytest.raises(GPT2Error, match="a tokenising process died"):
                made(cache, workers)
        finished = {path.name: path.stat().st_ino for path in shards_done(cache)}
        assert len(finished) >= 2
        assert made(cache, workers) == clean
        kept = {path.name: path.stat().st_ino for path in cache.glob("shards/*/train/*.ids")}
        assert finished.items() <= kept.items(), "finished shards are not made again"
        assert len(kept) > len(finished)
        assert not list((cache / "shards").glob("*.partial*"))


def shards_done(cache: Path) -> list[Path]:
    return [path.with_name(path.name.replace(".done.json", ".ids")) for path in cache.rglob("train/*.done.json")]


def kill_later(worker: "subprocess.Popen[bytes]", cache: Path) -> None:
    while len(shards_done(cache)) < 2:
        time.sleep(0.001)
    worker.kill()
