"""Training: `train` is what `gpt2 train` does. Loaded when first used, as in `gpt2` itself."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.training.run import TrainedRun as TrainedRun
    from gpt2.training.run import train as train

__all__ = ["TrainedRun", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gpt2.training' has no attribute {name!r}")
    from gpt2.training import run

    return getattr(run, name)
