"""The gate finds what is wrong, and the probes are what they should be."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2 import GPT2, Tokenizer
from gpt2.interop.parity import LIMITS, ParityError, compare, our_logits
from gpt2.interop.probes import sequences, strings
from gpt2.interop.readers import TransformersReader


class Altered:
    """transformers' reading of a folder, spoiled in one place."""

    name = "altered"

    def __init__(self, folder: Path, spoil: str = "") -> None:
        self.reader, self.spoil = TransformersReader.of_folder(folder), spoil

    def logits(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        found = [logits.clone() for logits in self.reader.logits(rows)]
        if self.spoil == "one logit":
            found[-1][-1, 7] += 3.0
        elif self.spoil == "nan":
            found[0][0, 0] = torch.nan
        elif self.spoil == "shape":
            found[0] = found[0][:, :-1]
        return found

    def tokenize(self, texts: Sequence[str]) -> list[list[int]] | None:
        ids = self.reader.tokenize(texts)
        if self.spoil == "one id" and ids is not None:
            ids[-1][-1] += 1
        return ids


def test_an_equal_reading_passes(model: GPT2, tokenizer: Tokenizer, saved: Path) -> None:
    rows = sequences(model, tokenizer, 3, 8)
    found = compare(model, tokenizer, Altered(saved), LIMITS["f32"], rows, strings())
    assert found.positions == sum(map(len, rows))
    assert found.num_strings >= 1000
    assert found.same_choice == 1.0
    assert found.mean_kl < 1e-9


@pytest.mark.parametrize(
    ("spoil", "message"),
    [("one logit", "predictions differ"), ("nan", "predictions differ"), ("shape", "shape"), ("one id", "tokenises")],
)
def test_any_difference_fails(spoil: str, message: str, model: GPT2, tokenizer: Tokenizer, saved: Path) -> None:
    rows = sequences(model, tokenizer, 2, 4)
    with pytest.raises(ParityError, match=message):
        compare(model, tokenizer, Altered(saved, spoil), LIMITS["f32"], rows, strings(40))


def test_limits_are_tight_enough_to_see_a_wrong_epsilon(model: GPT2, tokenizer: Tokenizer, saved: Path) -> None:
    """The mildest mistake there is: another constant in LayerNorm."""
    reader = TransformersReader.of_folder(saved)
    for module in reader.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-2
    with pytest.raises(ParityError, match="predictions differ"):
        compare(model, tokenizer, reader, LIMITS["f32"], sequences(model, tokenizer, 2, 4), [])


def test_a_folder_that_misses_a_tensor_is_not_accepted(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    del state["transformer.h.1.mlp.c_fc.bias"]
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParityError, match=r"missing_keys.*c_fc\.bias"):
        TransformersReader.of_folder(saved)


def test_sequences_go_on_as_the_model_would(model: GPT2, tokenizer: Tokenizer) -> None:
    for row in sequences(model, tokenizer, 4, 8):
        assert len(row) <= model.config.context_length
        choices = our_logits(model, row).argmax(-1).tolist()
        assert choices[-9:-1] == row[-8:]
    assert {len(row) for row in sequences(model, None, 4, 8)} == {16}


def test_strings_are_many_and_strange() -> None:
    texts = strings()
    assert len(set(texts)) == len(texts) >= 1000
    characters = set("".join(texts))
    kinds = {unicodedata.category(character) for character in characters}
    assert {"Cc", "Cf", "Cn", "Co", "Ll", "Lo", "Lt", "Lu", "Mn", "Nd", "Nl", "No", "So", "Zl", "Zp", "Zs"} <= kinds
    assert {"\0", "\ufffd", "😀", "\u0085", "\ufeff", "\U0010ffff"} <= characters
    assert sum("\ufffd" in text for text in texts) > 50  # bytes that were no UTF-8
    assert strings() == texts
    assert "<|endoftext|>" not in "".join(texts)
    "".join(texts).encode()  # no lone surrogates, which no UTF-8 holds
