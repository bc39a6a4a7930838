"""The model that a command is given."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.model import GPT2
    from gpt2.tokenizer import Tokenizer


def open_model(name: str, device: str = "auto") -> "tuple[GPT2, Tokenizer]":
    """Load a model onto a device; says which one `demo` is.

    Raises:
        UserError: there is no such model or device.
    """
    from gpt2.checkpoint import load
    from gpt2.device import keep_freed_memory, resolve_device

    say_which(name)
    keep_freed_memory()
    return load(name, device=resolve_device(device))


def say_which(name: str) -> None:
    """Tell on stderr which model `demo` is; of other names, nothing."""
    from gpt2.checkpoint.demo import which_demo

    if (note := which_demo(name)) is not None:
        print(f"gpt2: note: {note}", file=sys.stderr)
