import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.errors import TokenizerError
from gpt2.tokenizer import StreamDecoder, Tokenizer


@given(st.lists(st.integers(0, 1010)), st.booleans())
@settings(max_examples=300, deadline=None)
def test_joined_stream_is_decode_for_any_ids(tokenizer: Tokenizer, ids: list[int], keep: bool):
    decoder = StreamDecoder(tokenizer, keep_special=keep)
    text = "".join([decoder.push(i) for i in ids] + [decoder.flush()])
    assert text == tokenizer.decode(ids, keep_special=keep)


@given(st.text(st.sampled_from("aé中👩\u200d🏽 ")))
@settings(max_examples=100, deadline=None)
def test_pushes_only_whole_characters(tokenizer: Tokenizer, text: str):
    decoder = StreamDecoder(tokenizer)
    shown = ""
    for number in tokenizer.encode(text):
        shown += decoder.push(number)
        assert text.startswith(shown)
    assert shown == text
    assert decoder.flush() == ""


def test_an_emoji_appears_with_its_last_byte(tokenizer: Tokenizer):
    ids = [next(i for i in range(1, 257) if tokenizer.token_bytes(i) == bytes([b])) for b in "🙂".encode()]
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(i) for i in ids] == ["", "", "", "🙂"]
    decoder.push(ids[0])
    assert decoder.flush() == "\ufffd"
    assert [decoder.push(i) for i in ids] == ["", "", "", "🙂"], "flush makes ready for a new stream"


def test_negative_id(tokenizer: Tokenizer):
    with pytest.raises(TokenizerError, match="-5"):
        StreamDecoder(tokenizer).push(-5)
