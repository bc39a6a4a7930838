"""GGUF files, read by transformers, which has a reader of its own (llama.cpp reads them in `make interop`)."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, GPT2LMHeadModel

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.errors import ConfigError
from gpt2.interop.gguf import write_gguf
from gpt2.interop.parity import log_probabilities
from gpt2.interop.probes import strings
from tests.conftest import randomize

IDS = torch.tensor([[5, 6, 7, 300, 599, 0, 42, 17]])


def read(path: Path, model: GPT2) -> GPT2LMHeadModel:
    """Open the weights; the shape is given, because transformers reads no n_positions from these files."""
    transformers.logging.disable_progress_bar()
    config = transformers.GPT2Config(**model.config.to_hf())
    theirs, report = GPT2LMHeadModel.from_pretrained(
        path.parent, gguf_file=path.name, config=config, output_loading_info=True
    )
    assert not any(report.values()), report
    return theirs.eval()


@pytest.mark.parametrize(("dtype", "mean_kl"), [("f32", 1e-9), ("f16", 1e-5), ("q8_0", 1e-2)])
def test_transformers_reads_the_same_predictions(
    dtype: str, mean_kl: float, model: GPT2, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / f"tiny-{dtype}.gguf"
    write_gguf(model, tokenizer, path, dtype, "tiny")
    with torch.no_grad():
        p, q = log_probabilities(model(IDS)), log_probabilities(read(path, model)(IDS).logits)
    kl = (p.exp() * (p - q)).sum(-1).mean().item()
    assert kl <= mean_kl
    if dtype == "q8_0":
        assert kl > 1e-9  # it really is quantised


def test_transformers_reads_the_same_tokenizer(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_gguf(model, tokenizer, tmp_path / "t.gguf", "f16", "t")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="t.gguf")
    texts = strings()
    assert [theirs.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


def test_metadata_and_types_of_the_file(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_gguf(model, tokenizer, tmp_path / "t.gguf", "f16", "mine")
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    value = {key: field.contents() for key, field in reader.fields.items()}
    assert (value["general.name"], value["gpt2.context_length"], value["gpt2.block_count"]) == ("mine", 48, 2)
    assert (value["tokenizer.ggml.model"], value["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    kinds, tokens = value["tokenizer.ggml.token_type"], value["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == len(kinds) == 640
    assert kinds[0] == gguf.TokenType.CONTROL
    assert set(kinds[1:600]) == {gguf.TokenType.NORMAL}
    assert set(kinds[600:]) == {gguf.TokenType.UNUSED}  # rows that only pad the vocabulary
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == types["blk.1.ffn_down.weight"] == "F16"
    assert {types[name] for name in ("position_embd.weight", "blk.0.attn_norm.bias", "output_norm.weight")} == {"F32"}
    (up,) = [tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight"]
    np.testing.assert_allclose(up.data, model.transformer.h[0].mlp.c_fc.weight.detach().numpy().T, atol=1e-3)


def test_what_the_format_cannot_hold_is_refused(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    narrow = randomize(GPT2(GPT2Config(vocab_size=640, context_length=8, d_model=24, num_layers=1, num_heads=2)))
    with pytest.raises(ConfigError, match="q8_0 needs d_model to be a multiple of 32, this model has 24"):
        write_gguf(narrow, tokenizer, tmp_path / "n.gguf", "q8_0", "n")
    normalizing = Tokenizer(tokenizer.to_json().replace('"normalizer": null', '"normalizer": {"type": "NFC"}'))
    with pytest.raises(ConfigError, match="normalizer, which GGUF cannot express"):
        write_gguf(model, normalizing, tmp_path / "n.gguf", "f16", "n")
    assert not list(tmp_path.iterdir())
