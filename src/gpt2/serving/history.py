"""The record of a run, as the page draws it: curves, samples, snapshots, speed. Loads no torch."""

import json
import platform
import re
from pathlib import Path
from typing import Any

from gpt2.files import is_alive

_POINTS = 400
"""Most points of a curve: more than a screen shows."""
_SAMPLES = 60


def history(folder: Path | None) -> dict[str, Any]:
    """What `training/` of a run tells so far; of a folder that is no run, empty lists.

    Args:
        folder: the run folder.

    Returns:
        `train` and `valid`: points (step, tokens, seconds, loss, ...); `samples`; `running`; `last`: the latest
        figures; `plan`: its lines; `share`: how much of the run is done, if that can be told.
    """
    training = (folder or Path()) / "training"
    records = _records(training / "metrics.jsonl") if folder else []
    train = [r for r in records if "loss" in r]
    valid = [r for r in records if "valid_loss" in r]
    return {
        "train": _points(train, "loss"),
        "valid": _points(valid, "valid_loss"),
        "samples": _samples(training / "samples.md") if folder else [],
        "running": folder is not None and _is_locked(training / "lock"),
        "finished": folder is not None and (training / "evaluation.json").is_file(),
        "last": train[-1] if train else None,
        "plan": _plan(training / "environment.json") if folder else [],
        "bits_per_byte": valid[-1].get("valid_bits_per_byte") if valid else None,
    }


def _records(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; one that is just being written is left out."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _points(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Thinned evenly, the last kept."""
    every = max(1, -(-len(records) // _POINTS))
    chosen = [*records[:-1:every], *records[-1:]]
    keys = {"step": "step", "tokens": "tokens", "seconds": "seconds", "loss": name,
            "bits_per_byte": "valid_bits_per_byte", "tokens_per_second": "tokens_per_second"}  # fmt: skip
    return [{key: r[source] for key, source in keys.items() if source in r} for r in chosen]


_HEADING = re.compile(r"^## Step ([\d,]+)(?:, bits per byte ([\d.]+))?\s*$", re.MULTILINE)


def _samples(path: Path) -> list[dict[str, Any]]:
    """Samples of samples.md, the last ones."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    found = list(_HEADING.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    samples = [
        {
            "step": int(match[1].replace(",", "")),
            "bits_per_byte": float(match[2]) if match[2] else None,
            "text": text[match.end() : end].strip(),
        }
        for match, end in zip(found, ends, strict=True)
    ]
    return samples[-_SAMPLES:]


def _plan(path: Path) -> list[str]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(line) for line in plan] if isinstance(plan, list) else []


def _is_locked(path: Path) -> bool:
    """Whether the process that the run's lock names lives. The lock itself is left alone: a training may want it."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return about["host"] == platform.node() and is_alive(int(about["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
