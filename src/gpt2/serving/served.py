"""The model that a server serves: one, loaded before the first request, never exchanged."""

import hashlib
import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from gpt2.checkpoint import load
from gpt2.checkpoint.demo import located
from gpt2.checkpoint.hub import is_hub_name
from gpt2.device import resolve_device
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True)
class ServedModel:
    """A model, its tokenizer, and what clients are told about them."""

    name: str
    """What clients call it: the folder's name."""
    folder: Path | None
    """The run or model folder; None: it came from the Hub or from memory."""
    model: GPT2
    tokenizer: Tokenizer
    device: torch.device
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970 when it was loaded."""

    @classmethod
    def load(cls, source: str, device: str = "auto") -> "ServedModel":
        """Load through `gpt2.load`.

        Raises:
            UserError: as `gpt2.load` and `resolve_device`.
        """
        place = resolve_device(device)
        model, tokenizer = load(source, device=place)
        path = Path(source)
        if is_hub_name(source):
            return cls(source.removeprefix("hf:"), None, model, tokenizer, place)
        folder = path.parent if path.is_file() else located(source)
        return cls(path.resolve().stem if path.is_file() else path.resolve().name, folder, model, tokenizer, place)

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and continuation together."""
        return self.model.config.context_length

    @cached_property
    def fingerprint(self) -> str:
        """Changes when another model or tokenizer is served: the API's `system_fingerprint`."""
        shape = sorted(self.model.config.to_dict().items())
        return "fp_" + hashlib.sha256(f"{shape} {self.tokenizer.fingerprint}".encode()).hexdigest()[:12]


_SMALL = 8_000_000  # parameters
_WATCH = "10000"  # looks, about 0.2 ms; within a step threads wait for each other less than that


def set_threads(served: ServedModel, threads: int | None) -> str:
    """Set the processor threads of single steps; gives a sentence about the choice.

    Threads wait for each other many times in a step, and a small model's is over before that pays. What many streams
    are dealt to is the engine's own (`serving/burst.py`). To be called before the compiled operations are loaded: their
    threads then watch for more work for a moment only, and sleep. As GCC has it they would watch for milliseconds, on
    processors that the HTTP side could use.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _WATCH)
    if served.device.type != "cpu":
        return f"on {served.device}"
    if threads is None and served.model.num_parameters() <= _SMALL:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return f"{torch.get_num_threads()} thread(s) for a single step, up to {served.context_length} tokens each stream"
