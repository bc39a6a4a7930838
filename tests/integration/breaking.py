"""Trainings that an exception ends in the middle."""

from pathlib import Path
from typing import Any

import pytest

from gpt2 import train
from gpt2.training.hooks import Validation


def break_off(text: Path, out: Path, step: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Train into `out` until an exception comes after `step`, when its validation and its save have been."""
    original = Validation.__call__

    def breaking(self: Validation, trainer: Any, result: Any) -> None:
        original(self, trainer, result)
        if trainer.state.step == step:
            raise RuntimeError("the power went off")

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", breaking)
        with pytest.raises(RuntimeError, match="power"):
            train([text], out=out, **options)
