"""`load`: a folder, a .pt file, and everything that is neither."""

from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer, load
from gpt2.errors import CheckpointError, ConfigError, TokenizerError

IDS = torch.tensor([[5, 6, 7]])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat. " * 20], 280, allow_fewer=True)


@pytest.fixture
def model(tokenizer: Tokenizer) -> GPT2:
    config = GPT2Config(vocab_size=320, context_length=16, d_model=16, num_layers=1, num_heads=2, eos_token_id=0)
    return GPT2(config).eval()


def test_folder(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, its_tokenizer = load(tmp_path)
    assert torch.equal(again(IDS), model(IDS))
    assert its_tokenizer.encode("the cat") == tokenizer.encode("the cat")
    assert not again.training
    assert load(tmp_path, dtype=torch.bfloat16)[0].transformer.wte.weight.dtype == torch.bfloat16


def test_state_file_with_tokenizer_beside_it(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "gpt2_model.pt")
    tokenizer.save(tmp_path / "tokenizer.json")
    again, _ = load(tmp_path / "gpt2_model.pt")
    assert again.config == model.config
    assert torch.equal(again(IDS), model(IDS))


def test_state_file_without_configuration_needs_it(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.save({name: value.clone() for name, value in model.state_dict().items()}, tmp_path / "bare.pt")
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"saved without its configuration; give it: load\("):
        load(tmp_path / "bare.pt")
    assert torch.equal(load(tmp_path / "bare.pt", config=model.config)[0](IDS), model(IDS))


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_state_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"w": Malicious(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 broken zip"])
def test_damaged_state_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.pt is damaged"):
        load(tmp_path / "m.pt")


def test_missing_parts_are_named(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "story-model")
    with pytest.raises(CheckpointError, match="Did you mean 'story-model'"):
        load(tmp_path / "stry-model")
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        load(tmp_path / "story-model")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="is not a model"):
        load(text)


def test_tokenizer_of_another_model_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    GPT2(GPT2Config(vocab_size=64, context_length=8, d_model=8, num_layers=1, num_heads=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="do not belong together"):
        load(tmp_path)
