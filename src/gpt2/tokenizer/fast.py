"""gigatoken (the `fast` extra): the same ids many times faster, and refused unless they are the same."""

import importlib.metadata
import itertools
import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.tokenizer.bpe import Tokenizer

_PROBED_TOKENS = 8192


Ids = Callable[[Sequence[str]], tuple[Any, Any]]
"""Texts (one at least) to the ids of all, one text's after the other's, and how many each has: numpy arrays."""


def gigatoken_encoder(tokenizer: "Tokenizer") -> Ids | None:
    """Texts -> ids by gigatoken; None: it is not installed, not wanted, or does not agree.

    What has a normalizer or tokens that cut plain text stays with `tokenizers`. `GPT2_FAST=0` forbids it.
    """
    if os.environ.get("GPT2_FAST") == "0" or tokenizer.normalizes or not tokenizer.splits_by_pattern:
        return None
    try:
        from gigatoken import Tokenizer as Gigatoken
    except ImportError:
        return None
    name = f"gigatoken {importlib.metadata.version('gigatoken')}"
    try:
        encode = _encoder(Gigatoken, tokenizer)
        probes = _probes(tokenizer)
        expected = [tokenizer.encode(text) for text in probes]
        # Each alone; all in one call; and with the mark itself as text.
        agrees = all(encode([text])[0].tolist() == ids for text, ids in zip(probes, expected, strict=True))
        for texts, wanted in ((probes[:-1], expected[:-1]), (probes, expected)):
            ids, counts = encode(texts)
            agrees &= ids.tolist() == list(itertools.chain(*wanted)) and counts.tolist() == list(map(len, wanted))
    except Exception as error:  # a young library: whatever it raises, the slow way is right
        logging.getLogger(__name__).warning("%s cannot read this tokenizer (%s) and is not used", name, error)
        return None
    if not agrees:
        logging.getLogger(__name__).warning("%s gives other ids than tokenizers and is not used", name)
        return None
    return encode


def _encoder(library: Any, tokenizer: "Tokenizer") -> Ids:
    """Many texts in one call, told apart by the end-of-text token, which no text's own ids have."""
    import numpy as np

    definition, mark = json.loads(tokenizer.to_json()), tokenizer.eos_token_id
    strict = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)  # it takes no blanks of a text
    known = [{**token, **strict} for token in definition["added_tokens"] if token["id"] == mark]

    def encoder(added: list[Any]) -> Callable[[str], Any]:
        return library.from_json(json.dumps({**definition, "added_tokens": added})).backend.encode

    plain = encoder([])  # special strings are text like any other
    marked, between = (encoder(known), known[0]["content"]) if known else (plain, "")

    def encode(texts: Sequence[str]) -> tuple[Any, Any]:
        joined = between.join(texts)
        if len(texts) > 1 and between and joined.count(between) == len(texts) - 1:
            ids = marked(joined)
            is_mark = ids == mark
            ends = np.flatnonzero(is_mark)
            return ids[~is_mark], np.diff(ends, prepend=-1, append=len(ids)) - 1
        parts = [plain(text) for text in texts]
        return np.concatenate(parts), np.array([len(part) for part in parts])

    return encode


def _probes(tokenizer: "Tokenizer") -> list[str]:
    """Every kind of character between letters, digits, marks and blanks; every token's text; the mark in the last."""
    points = [*range(0x250), *range(0x250, 0x30000, 97)]
    characters = [chr(p) for p in points if not 0xD800 <= p < 0xE000]
    plain = (i for i in range(len(tokenizer)) if not tokenizer.is_special(i))
    words = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in itertools.islice(plain, _PROBED_TOKENS)]
    return [
        "".join(f"a{c}b 1{c}2 .{c}! {c}\n{c} " for c in characters),
        "".join(words),
        " ".join(words),
        "  \n blanks at both ends\n \t",
        "I'll we've it's don't I'd I'm they're 'LL 'x  two   three\n\n four \t five\r\n 12,345.67 <|endoftext|> end  ",
    ]
