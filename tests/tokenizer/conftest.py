import lzma
from importlib import resources

import pytest

from gpt2.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def stories() -> list[str]:
    packed = (resources.files("gpt2.data") / "bundled_stories.txt.xz").read_bytes()
    return lzma.decompress(packed).decode("utf-8").split("<|endoftext|>")


@pytest.fixture(scope="session")
def tokenizer(stories: list[str]) -> Tokenizer:
    return Tokenizer.train(stories[:500], 1000)
