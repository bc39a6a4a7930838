import pickle
import sys
import unicodedata
from collections.abc import Iterator

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.tokenizer import BulkEncoder, Tokenizer, bulk

COVERED = "".join(map(chr, bulk._covered()))
LIBRARY = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


@pytest.fixture(autouse=True, scope="module")
def without_gigatoken() -> Iterator[None]:
    """tests/tokenizer/test_fast.py has those with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_FAST", "0")
        yield


@pytest.fixture(scope="module")
def tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    return pickle.loads(pickle.dumps(tokenizer))  # without what it found out before


def library_words(text: str) -> list[str]:
    return [text[start:stop] for _, (start, stop) in LIBRARY.pre_tokenize_str(text)]


def test_every_covered_character_is_classed_as_the_library_does():
    # Between letters, digits, marks and blanks, each character shows which class it belongs to.
    assert len(COVERED) > 1300
    pattern = bulk._wide_pattern()
    for character in COVERED:
        text = f"a{character}b 1{character}2 .{character}! {character}\n{character} "
        assert pattern.findall(text) == library_words(text), f"U+{ord(character):04X}"


def test_ascii_pattern_splits_all_pairs_as_the_library():
    characters = "".join(map(chr, range(128)))
    text = "".join(a + b for a in characters for b in characters)
    assert bulk._ascii_pattern().findall(text) == library_words(text)


@given(st.text(st.sampled_from(COVERED)))
@settings(max_examples=300, deadline=None)
def test_pattern_splits_covered_text_as_the_library(text: str):
    assert bulk._wide_pattern().findall(text) == library_words(text)


@given(st.text() | st.text(st.sampled_from("'’ sStTrRvVmMlLdDeE\n\t1.")))
@settings(max_examples=300, deadline=None)
def test_bulk_equals_encode(tokenizer: Tokenizer, text: str):
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)]


def test_bulk_equals_encode_on_stories(tokenizer: Tokenizer, stories: list[str]):
    assert tokenizer.encode_batch(stories[:300]) == [tokenizer.encode(story) for story in stories[:300]]


def test_ids_are_little_endian_of_the_needed_width(tokenizer: Tokenizer):
    encoder = BulkEncoder(tokenizer)
    encoded = encoder.encode("Once upon")
    assert encoder.itemsize == 2
    assert [int.from_bytes(encoded[n : n + 2], "little") for n in range(0, len(encoded), 2)] == tokenizer.encode(
        "Once upon"
    )
    assert [bulk.id_bytes(size) for size in (257, 65_536, 65_537)] == [2, 2, 4]


def test_dictionary_of_words_stays_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk, "_MAX_WORDS", 100)
    encoder = BulkEncoder(tokenizer)
    for number in range(500):
        text = f"word{number} " + "x" * 200
        assert encoder.to_list(encoder.encode(text)) == tokenizer.encode(text)
        assert len(encoder._words) <= 104
    assert all(len(word) <= 64 for word in encoder._words)


def test_a_token_that_cuts_plain_text_is_honoured(tokenizer: Tokenizer):
    import json

    definition = json.loads(tokenizer.to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    definition["added_tokens"].append({"id": 1000, "content": "the cat", **flags})
    other = Tokenizer(json.dumps(definition))
    assert 1000 in other.encode("see the cat sit")
    assert other.encode_batch(["see the cat sit"]) == [other.encode("see the cat sit")]


def test_a_normalizer_is_honoured(tokenizer: Tokenizer):
    import json

    definition = json.loads(tokenizer.to_json())
    definition["normalizer"] = {"type": "NFC"}
    other = Tokenizer(json.dumps(definition))
    text = "cafe\u0301"
    assert other.decode(other.encode(text)) == unicodedata.normalize("NFC", text)
    assert other.encode_batch([text]) == [other.encode(text)]


@pytest.mark.skipif(sys.byteorder == "big", reason="the reference below assumes a little-endian machine")
def test_wide_ids(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk, "id_bytes", lambda size: 4)
    encoder = BulkEncoder(tokenizer)
    assert encoder.to_list(encoder.encode("Once upon a time")) == tokenizer.encode("Once upon a time")
    assert len(encoder.encode("Once upon a time")) == 4 * len(tokenizer.encode("Once upon a time"))


def test_long_texts_and_endless_words_are_cut_as_encode_cuts_them(
    tokenizer: Tokenizer, stories: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gpt2.documents.MAX_RUN", 5000)
    monkeypatch.setattr("gpt2.documents.cut_pieces.__defaults__", (2000,))
    monkeypatch.setattr(bulk, "_PIECE_CHARACTERS", 100)
    for text in ("\n".join(stories[:20]) + " 中文 ", "the" * 4000, "the" * 4000 + " " * 9000 + "é" * 7000):
        assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == text
