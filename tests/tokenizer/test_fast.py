"""gigatoken gives the ids of `tokenizers`, or is not used."""

import json
import logging
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.errors import TokenizerError
from gpt2.tokenizer import BulkEncoder, Tokenizer, bulk, parallel
from gpt2.tokenizer.fast import gigatoken_encoder

gigatoken = pytest.importorskip("gigatoken")

_ODD = "'’ sStTrRvVmMlLdDeE\n\t1.\r\x0b\x1c\x1f\x85\xa0\u2028\u3000\u200béß中🙂٣½²"


@given(st.text() | st.text(st.sampled_from(_ODD)))
@settings(max_examples=300, deadline=None)
def test_equals_encode(tokenizer: Tokenizer, text: str) -> None:
    encoder = tokenizer.bulk_encoder
    assert encoder.is_fast
    assert encoder.to_list(encoder.encode(text)) == tokenizer.encode(text)


def test_equals_encode_on_stories_and_long_texts(tokenizer: Tokenizer, stories: list[str]) -> None:
    texts = [*stories[:200], "\n".join(stories), "<|endoftext|> is text", "", "the" * 500_000]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@given(st.lists(st.text() | st.text(st.sampled_from(_ODD)) | st.sampled_from(["<|endof", "text|>", "<|endoftext|>"])))
@settings(max_examples=300, deadline=None)
def test_many_in_one_call_equal_each_alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    encoder = tokenizer.bulk_encoder
    assert encoder.is_fast
    ids, counts = encoder.encode_many(texts)
    expected = [tokenizer.encode(text) for text in texts]
    assert counts == list(map(len, expected))
    assert encoder.to_list(ids) == [i for found in expected for i in found]


def test_needs_no_other_processes(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_WORTH_PROVING", 0)  # a small text starts none anyway
    monkeypatch.setattr(parallel, "_start_worker", lambda: pytest.fail("a process was started"))
    results = list(parallel.encode_stream(tokenizer, ["one", "zwölf"], 4))
    assert [result.num_bytes for result in results] == [[3, 6]]
    with pytest.raises(TokenizerError, match="lone surrogate"):
        list(parallel.encode_stream(tokenizer, ["\udc00"], 4))


def test_what_gives_other_ids_is_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = gigatoken.Tokenizer.from_json

    def wrong(definition: str) -> object:
        content = json.loads(definition)
        content["model"]["merges"].pop(5)
        return real(json.dumps(content))

    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", wrong)
    with caplog.at_level(logging.WARNING):
        assert gigatoken_encoder(tokenizer) is None
    assert "gives other ids than tokenizers" in caplog.text
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda definition: 1 / 0)
    assert gigatoken_encoder(tokenizer) is None
    assert "cannot read this tokenizer" in caplog.text


def test_one_text_in_many_is_checked_all_the_same(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_CHECK_EVERY", 3)
    encoder = BulkEncoder(tokenizer)
    real = encoder._fast
    assert real is not None
    encoder._fast = lambda texts: real([text + "!" for text in texts])
    encoder.encode("one")
    encoder.encode("two")
    with pytest.raises(TokenizerError, match="other ids than tokenizers for 'three'"):
        encoder.encode("three")
    encoder._count = 0
    encoder.encode_many(["four"])
    with pytest.raises(TokenizerError, match="other ids than tokenizers for 'six'"):
        encoder.encode_many(["five", "six", "seven"])


def test_it_can_be_forbidden(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_FAST", "0")
    assert not pickle.loads(pickle.dumps(tokenizer)).bulk_encoder.is_fast


def test_a_normalizer_stays_with_the_library(tokenizer: Tokenizer) -> None:
    definition = json.loads(tokenizer.to_json())
    definition["normalizer"] = {"type": "NFC"}
    assert not Tokenizer(json.dumps(definition)).bulk_encoder.is_fast
