"""A tokenizer and small models to look into."""

import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.data import iter_documents
from gpt2.inspection import Run, run
from tests.conftest import randomize

TEXT = "Once upon a time there was a little dog."


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    stories = [story for _, story in zip(range(60), iter_documents(), strict=False)]
    return Tokenizer.train(stories, 400)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT2:
    """Every parameter, biases and norms too, has a value of its own."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=448, context_length=48, d_model=32, num_layers=3, num_heads=4, eos_token_id=tokenizer.eos_token_id
    )
    return randomize(GPT2(config)).eval()


@pytest.fixture(scope="session")
def looked(model: GPT2, tokenizer: Tokenizer) -> Run:
    return run(model, tokenizer, TEXT)
