"""What an export is tried on: real prompts for the model, strange strings for the tokenizer."""

import random
from itertools import islice

import torch

from gpt2.data import iter_documents
from gpt2.generation.generate import generate_ids
from gpt2.generation.sampling import Sampling
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

NUM_STRINGS = 1200

_PROMPT_CHARACTERS = 60
_PIECES: tuple[str, ...] = (
    "the", "Once upon a time", "naïve", "don't", "we'LL", "they've", "I'm’s", "x=1", "3.14159", "...", "!?", "a-b_c",
    " ", "  ", "\t", "\n", "\r\n", "\n\n \n", "\v\f", "\u00a0", "\u0085", "\u1680", "\u2003", "\u2028", "\u2029",
    "\u202f", "\u3000", "\u200b", "\ufeff", "\0", "\x01\x02\x1b[0m", "\x7f", "\x80\x9f", "\u00ad", "\u202e",
    "Straße", "ÀÉÎõü", "e\u0301", "a\u0300\u0323", "Ωμέγα", "Привет", "שלום", "مرحبا", "नमस्ते", "สวัสดี", "你好，世界",
    "こんにちは", "안녕하세요", "한\u1100\u1161", "𝒳𝔘𝟘", "ᏣᎳᎩ", "ǅ", "ﬁ", "٣٤٥", "½", "²", "Ⅷ", "①", "٪", "€£¥", "±×÷",
    "«»", "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇨🇭", "❤️", "\U0001f9ff", "\ufffd", "\ufffe", "\uffff", "\ue000",
    "\U000e0001", "\U0010ffff",
)  # fmt: skip
_INVALID = (
    b"\xff\xfe",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\x80",
)
_BROKEN = [*_INVALID * 6, *(piece.encode() for piece in _PIECES)]


def strings(count: int = NUM_STRINGS, seed: int = 0) -> list[str]:
    """Different texts to tokenise: words, blanks, scripts, control characters, emoji, broken UTF-8, any code point.

    Bytes that are no UTF-8 come as they arrive from a file read with errors="replace": as U+FFFD.
    """
    draw = random.Random(seed)
    found: dict[str, None] = dict.fromkeys(_PIECES)
    while len(found) < count:
        kind = draw.randrange(4)
        if kind == 0:
            text = "".join(draw.choices(_PIECES, k=draw.randint(2, 12)))
        elif kind == 1:
            text = "".join(_code_point(draw) for _ in range(draw.randint(1, 20)))
        elif kind == 2:
            ascii_text = draw.choices(range(128), k=draw.randint(1, 30))
            text = bytes(ascii_text).decode()
        else:
            parts = [
                draw.choice([*_INVALID, *(piece.encode() for piece in _PIECES)]) for _ in range(draw.randint(2, 8))
            ]
            text = b"".join(parts).decode("utf-8", "replace")
        found[text] = None
    return list(found)


def sequences(model: GPT2, tokenizer: Tokenizer | None, count: int, new_tokens: int) -> list[list[int]]:
    """Beginnings of bundled stories as ids, each with the model's own greedy continuation.

    Where a reader's likeliest token is the next one at every place of the continuation, it would have written the
    same text. Without a tokenizer the beginnings are ids drawn at random.
    """
    length = max(1, min(new_tokens, model.config.context_length // 2))
    if tokenizer is None:
        draw = torch.Generator().manual_seed(0)
        beginnings = torch.randint(model.config.vocab_size, (count, length), generator=draw).tolist()
    else:
        texts = [text[:_PROMPT_CHARACTERS] for text in islice(iter_documents(), count)]
        longest = max(1, model.config.context_length - length)
        beginnings = [tokenizer.encode(text)[:longest] for text in texts]
    return [
        [*ids, *new]
        for ids in beginnings
        for new in generate_ids(model, [ids], length, Sampling(temperature=0.0), eos_token_id=None)
    ]


def _code_point(draw: random.Random) -> str:
    while 0xD800 <= (number := draw.randrange(draw.choice([0x250, 0x3000, 0x10000, 0x110000]))) < 0xE000:
        pass
    return chr(number)
