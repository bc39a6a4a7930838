"""Sweeps that are really trained, in several processes, killed and taken up again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2.cli import main
from gpt2.experiments.space import Space
from gpt2.experiments.sweep import Sweep
from tests.stories import write_stories

BASE = """
[base]
text = ["{text}"]
d_model = 16
num_layers = 1
num_heads = 1
context_length = 32
vocab_size = 320
batch_size = 4
steps = {steps}
evals = 1
threads = 1
dtype = "float32"
compile = "off"
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))


def write(path: Path, head: str, search: str, steps: int = 4) -> Path:
    text = write_stories(path.with_suffix(".txt"), 60)
    path.write_text(f"{head}\n{BASE.format(steps=steps, text=text.as_posix())}\n[search]\n{search}\n")
    return path


def test_a_grid_is_trained_told_drawn_and_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    file = write(tmp_path / "grid.toml", 'sampler = "grid"', "lr = [0.001, 0.05]\nnum_heads = [1, 3]")
    arguments = ["sweep", str(file), "--out", str(tmp_path / "s"), "--json"]
    assert main(arguments) == 0
    trials = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in trials] == ["complete", "complete", "failed", "failed"]
    assert trials[0]["bits_per_byte"] < trials[1]["bits_per_byte"]
    assert "num_heads" in trials[2]["error"]  # three heads do not divide 16
    report = json.loads((tmp_path / "s" / trials[0]["folder"] / "training" / "evaluation.json").read_text())
    assert report["bits_per_byte"] == trials[0]["bits_per_byte"]
    with (tmp_path / "s" / "trials.csv").open() as table:
        assert [row["trial"] for row in csv.DictReader(table)] == [trial["folder"] for trial in trials]
    assert b"bits per byte" in (tmp_path / "s" / "sweep.svg").read_bytes()
    began = (tmp_path / "s" / trials[0]["folder"] / "model.safetensors").stat().st_mtime_ns
    assert main(arguments) == 0  # nothing is left to do
    assert json.loads(capsys.readouterr().out) == trials
    assert (tmp_path / "s" / trials[0]["folder"] / "model.safetensors").stat().st_mtime_ns == began
    file.write_text(file.read_text().replace("d_model = 16", "d_model = 32"))
    assert main(arguments) == 2
    assert "another --out" in capsys.readouterr().err


def test_the_sampler_of_optuna_makes_as_many_trials_as_were_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = "lr = { low = 0.001, high = 0.1, log = true }\nd_model = [16, 32]"
    file = write(tmp_path / "tpe.toml", 'sampler = "tpe"\ntrials = 2', search, steps=2)
    said: list[str] = []
    Sweep(Space.read(file), tmp_path / "s").work(said.append)
    trials = Sweep(Space.read(file), tmp_path / "s").trials()
    assert sorted(trial.folder for trial in trials) == ["trial-0000", "trial-0001"]
    assert all(trial.state == "complete" for trial in trials)
    assert len(said) == 2


@pytest.mark.slow
def test_two_processes_share_a_sweep_and_a_killed_trial_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = write(tmp_path / "r.toml", "trials = 4", "lr = { low = 0.01, high = 0.05 }", steps=60)
    command = [sys.executable, "-m", "gpt2", "sweep", str(file), "--out", str(tmp_path / "s")]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "s" / "trial-0000" / "training" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    states = {trial.folder: trial.state for trial in Sweep(Space.read(file), tmp_path / "s").trials()}
    assert states["trial-0000"] in ("waiting", "complete")  # taken up as soon as anyone looks
    done = subprocess.run(
        [*command, "--workers", "2", "--json"], capture_output=True, text=True, timeout=300, check=True
    )
    trials = json.loads(done.stdout)
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    assert len({trial["folder"] for trial in trials}) == 4
    lines = (tmp_path / "s" / "trial-0000" / "training" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 60


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_sigterm_stops_every_worker_and_the_same_command_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = write(tmp_path / "r.toml", "trials = 2", "lr = { low = 0.01, high = 0.05 }", steps=4000)
    command = [sys.executable, "-m", "gpt2", "sweep", str(file), "--out", str(tmp_path / "s"), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    folders = [tmp_path / "s" / f"trial-000{n}" / "training" for n in range(2)]
    deadline = time.monotonic() + 120
    while not all((folder / "metrics.jsonl").exists() for folder in folders):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert said.count("everything is saved; go on with: the same gpt2 sweep") == 2
    assert all((folder / "stopped.json").exists() for folder in folders)
    states = [trial.state for trial in Sweep(Space.read(file), tmp_path / "s").trials()]
    assert states == ["waiting", "waiting"]
