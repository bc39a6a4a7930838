"""One run of many."""

from collections.abc import Callable
from pathlib import Path

from gpt2.checkpoint import RunFolder
from gpt2.errors import StoppedError
from gpt2.settings import TrainSettings
from gpt2.training.run import TrainedRun, run


def train_member(folder: Path, settings: Callable[[], TrainSettings], command: str) -> TrainedRun:
    """Train a run, or go on with the one that its folder holds.

    Args:
        folder: its own.
        settings: of a run that has not begun.
        command: "gpt2 sweep", by which the user began the many.

    Raises:
        StoppedError: a signal came; the same command goes on, not `gpt2 train`.
    """
    begun = RunFolder(folder).config.is_file()
    try:
        trained = run(TrainSettings.make(resume=str(folder)) if begun else settings(), progress=False)
    except StoppedError as error:
        raise error.by(f"the same {command}") from error
    assert trained is not None  # None is of a run that only shows its plan
    return trained
