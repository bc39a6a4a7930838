"""GPT-2 from scratch: read it, train it, look inside it, trust it.

Names load what they need when first used (PEP 562), so that `import gpt2` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.checkpoint import load as load
    from gpt2.config import GPT2Config as GPT2Config
    from gpt2.model import GPT2 as GPT2
    from gpt2.tokenizer import Tokenizer as Tokenizer
    from gpt2.training import train as train

__version__ = "0.1.0"

_HOMES = {
    "GPT2": "gpt2.model",
    "GPT2Config": "gpt2.config",
    "Tokenizer": "gpt2.tokenizer",
    "load": "gpt2.checkpoint",
    "train": "gpt2.training",
}

__all__ = ["GPT2", "GPT2Config", "Tokenizer", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt2' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
