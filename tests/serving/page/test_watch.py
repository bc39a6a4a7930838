"""`gpt2 train --watch`: a page beside the training, which changes nothing in it."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gpt2.serving.history import history

TRAIN = [
    "train", "--steps", "12", "--fraction", "0.05", "--vocab-size", "512", "--context-length", "64", "--d-model", "32",
    "--num-layers", "2", "--num-heads", "2", "--batch-size", "4", "--evals", "2", "--snapshots", "0", "--compile", "off",
    "--dtype", "float32",
]  # fmt: skip


def test_a_watched_run_is_served_and_the_same(tmp_path: Path, run_folder: Path) -> None:
    """The watching process serves the page and the growing record, then ends; the weights are those of no watching."""
    out = tmp_path / "tiny"
    environment = {**os.environ, "BROWSER": "true", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "gpt2", *TRAIN, "--out", str(out), "--watch"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as training:
        assert training.stderr is not None
        address = ""
        for line in training.stderr:
            if found := re.search(r"watch it learn: (http://127\.0\.0\.1:\d+)/#live", line):
                address = found[1]
                break
        with urllib.request.urlopen(f"{address}/", timeout=20) as page:
            assert b'id="app"' in page.read()
        with urllib.request.urlopen(f"{address}/api/model", timeout=20) as answer:
            assert json.load(answer)["mode"] == "watch"
        training.stderr.read()  # until both processes have ended
        assert training.wait(timeout=60) == 0
    assert (out / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/", timeout=5)


def test_watching_loads_no_torch() -> None:
    code = "import sys; from pathlib import Path; from gpt2.serving.watch import app_of; app_of(Path('x')); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_record_half_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    training = tmp_path / "training"
    training.mkdir()
    lines = ['{"step": 1, "tokens": 8, "seconds": 0.1, "loss": 5.0}', '{"step": 2, "tokens": 16, "sec']
    (training / "metrics.jsonl").write_text("\n".join(lines))
    (training / "samples.md").write_text("# Samples during training\n\n## Step 1,200, bits per byte 1.9\n\n<b>A</b>\n")
    (training / "lock").write_text(json.dumps({"pid": os.getpid(), "host": "another machine", "since": "now"}))
    found = history(tmp_path)
    assert [point["loss"] for point in found["train"]] == [5.0]
    assert found["samples"] == [{"step": 1200, "bits_per_byte": 1.9, "text": "<b>A</b>"}]
    assert not found["running"]
    assert history(None)["train"] == []


def test_a_long_record_is_thinned_and_ends_with_its_last(tmp_path: Path) -> None:
    training = tmp_path / "training"
    training.mkdir()
    records = [{"step": i, "tokens": 8 * i, "seconds": i, "loss": 1 / i} for i in range(1, 5001)]
    (training / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    points = history(tmp_path)["train"]
    assert len(points) <= 401
    assert points[0]["step"] == 1
    assert points[-1]["step"] == 5000
