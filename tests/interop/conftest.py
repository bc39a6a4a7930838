"""A small model whose every weight matters, with a tokenizer trained here, and rows of a padded vocabulary."""

from pathlib import Path

import pytest

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.data import iter_documents
from tests.conftest import randomize


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [text for _, text in zip(range(60), iter_documents(), strict=False)]
    return Tokenizer.train([*texts, "naïve Straße 😀😀 你好你好 \t\t\n\n  \u3000\u3000 3.14 3.14"], 600)


@pytest.fixture(scope="session")
def model() -> GPT2:
    config = GPT2Config(vocab_size=640, context_length=48, d_model=64, num_layers=2, num_heads=4, eos_token_id=0)
    return randomize(GPT2(config), std=0.05).eval()


@pytest.fixture
def saved(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The two in a folder."""
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny", model_max_length=48)
    return tmp_path / "tiny"
