from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.data import bundled_corpus, iter_documents
from gpt2.tokenizer import Tokenizer

SEPARATOR = "<|endoftext|>"


@pytest.fixture(scope="session")
def stories() -> list[str]:
    return list(iter_documents([bundled_corpus()]))


@pytest.fixture(scope="session")
def tokenizer(stories: list[str]) -> Tokenizer:
    return Tokenizer.train(stories[:300], 600)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; nothing may touch the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GPT2_CACHE", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write documents in TinyStories' format."""

    def write_documents(documents: list[str], name: str = "text.txt") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{d}\n{SEPARATOR}\n" for d in documents), encoding="utf-8", newline="")
        return path

    return write_documents
