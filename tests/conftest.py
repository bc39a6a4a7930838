"""Fixtures: tiny models with large, distinctive weights, the development data if it is there, and a browser."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from gpt2 import GPT2, GPT2Config
from gpt2.files import cache_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    torch.set_num_threads(1)
    # Tests have caches of their own; the compiled operations need not be made anew in each.
    os.environ.setdefault("GPT2_NATIVE", str(cache_folder() / "native"))
    # A background job of a shell ignores Ctrl-C, and so would the children that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that begins last would leave the other workers waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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


def find_browser() -> str | None:
    """Chromium from $CHROMIUM, the system, or Playwright's own download."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [os.environ.get("CHROMIUM"), *(shutil.which(name) for name in names)]
    return next((path for path in found if path), None)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """One Chromium for all tests of a process: Playwright runs only once in a thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find_browser() or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: apt-get install chromium, or python -m playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def randomize(model: GPT2, seed: int = 0, std: float = 0.2) -> GPT2:
    """Give every parameter, biases and norms too, a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model
