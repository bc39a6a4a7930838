"""gigatoken (the `fast` extra): the same ids many times faster, and refused unless they are the same."""

import importlib.metadata
import json
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.tokenizer.bpe import Tokenizer

_PROBED_TOKENS = 8192


def gigatoken_encoder(tokenizer: "Tokenizer") -> Callable[[str], Any] | None:
    """text -> ids (numpy uint32) by gigatoken; None: it is not installed, not wanted, or does not agree.

    What has a normalizer or tokens that cut plain text stays with `tokenizers`. `GPT2_FAST=0` forbids it.
    """
    if os.environ.get("GPT2_FAST") == "0" or tokenizer.normalizes or not tokenizer.splits_by_pattern:
        return None
    try:
        from gigatoken import Tokenizer as Gigatoken
    except ImportError:
        return None
    definition = json.loads(tokenizer.to_json())
    definition["added_tokens"] = []  # special strings are text like any other
    name = f"gigatoken {importlib.metadata.version('gigatoken')}"
    try:
        encode: Callable[[str], Any] = Gigatoken.from_json(json.dumps(definition)).backend.encode
        agrees = all(encode(text).tolist() == tokenizer.encode(text) for text in _probes(tokenizer))
    except Exception as error:  # a young library: whatever it raises, the slow way is right
        logging.getLogger(__name__).warning("%s cannot read this tokenizer (%s) and is not used", name, error)
        return None
    if not agrees:
        logging.getLogger(__name__).warning("%s gives other ids than tokenizers and is not used", name)
        return None
    return encode


def _probes(tokenizer: "Tokenizer") -> list[str]:
    """Every kind of character between letters, digits, marks and blanks; every token's text."""
    points = [*range(0x250), *range(0x250, 0x30000, 97)]
    characters = [chr(p) for p in points if not 0xD800 <= p < 0xE000]
    tokens = (tokenizer.token_bytes(i).decode("utf-8", "replace") for i in range(len(tokenizer)))
    words = [token for token, _ in zip(tokens, range(_PROBED_TOKENS), strict=False)]
    return [
        "".join(f"a{c}b 1{c}2 .{c}! {c}\n{c} " for c in characters),
        "".join(words),
        " ".join(words),
        "I'll we've it's don't I'd I'm they're 'LL 'x  two   three\n\n four \t five\r\n 12,345.67 <|endoftext|> end  ",
    ]
