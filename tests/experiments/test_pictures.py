"""Pictures of sweeps: names that do not meet, and none that hides a difference."""

from pathlib import Path

import pytest

from gpt2.experiments.pictures import draw_sweep
from gpt2.experiments.sweep import Trial


@pytest.mark.parametrize(
    ("rates", "shown"),
    [((0.00845366, 0.0122089), ("0.00845", "0.0122")), ((0.012201, 0.012202), ("0.012201", "0.012202"))],
)
def test_numbers_are_as_long_as_tells_them_apart(
    rates: tuple[float, ...], shown: tuple[str, ...], tmp_path: Path
) -> None:
    trials = [Trial("trial", {"lr": rate}, "complete", 1.0 + rate, None) for rate in rates]
    draw_sweep(trials, tmp_path / "sweep.svg")
    text = (tmp_path / "sweep.svg").read_text(encoding="utf-8")
    assert all(f">{label}<" in text for label in shown)
