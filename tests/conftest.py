"""Fixtures: tiny models with large, distinctive weights, and the development data if it is there."""

import os
import signal
from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, GPT2Config
from gpt2.files import cache_folder

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    torch.set_num_threads(1)
    # Tests have caches of their own; the compiled operations need not be made anew in each.
    os.environ.setdefault("GPT2_NATIVE", str(cache_folder() / "native"))
    # A background job of a shell ignores Ctrl-C, and so would the children that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny_config() -> GPT2Config:
    return GPT2Config(vocab_size=97, context_length=24, d_model=32, num_layers=2, num_heads=4)


@pytest.fixture
def tiny_model(tiny_config: GPT2Config) -> GPT2:
    """A model whose every parameter matters: biases and norms are drawn too."""
    return randomize(GPT2(tiny_config)).eval()


@pytest.fixture
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs the TinyStories sample, which is not part of the project")
    return folder


def randomize(model: GPT2, seed: int = 0, std: float = 0.2) -> GPT2:
    """Give every parameter, biases and norms too, a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model
