"""Learning the merges with the `tokenizers` library, and its failures in words."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

from gpt2.documents import SEPARATOR, cut_pieces
from gpt2.errors import TokenizerError
from gpt2.tokenizer.byte_level import BYTE_TO_CHARACTER
from gpt2.tokenizer.validate import MAX_VOCABULARY

SMALLEST_VOCABULARY = 257  # the bytes and <|endoftext|>

_PIECE_CHARACTERS = 1 << 12  # the library gathers 256 of them before it counts their words
_LONGEST_WORD = 1000
_LONG_RUN = re.compile(rf"\S{{{_LONGEST_WORD}}}|\s{{{_LONGEST_WORD}}}")


def learn_merges(texts: Iterable[str], vocab_size: int, *, min_frequency: int, allow_fewer: bool) -> str:
    """The text of a `tokenizer.json`; see `Tokenizer.train`.

    Raises:
        TokenizerError: `vocab_size` is out of range or larger than the text supports.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, not one string")
    if not SMALLEST_VOCABULARY <= vocab_size <= MAX_VOCABULARY:
        raise TokenizerError(
            f"vocab_size must lie between {SMALLEST_VOCABULARY} (256 bytes and {SEPARATOR}) "
            f"and {MAX_VOCABULARY:,}, got {vocab_size:,}"
        )
    rust = tokenizers.Tokenizer.from_str(json.dumps(gpt2_definition({}, [], None)))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[SEPARATOR],
        initial_alphabet=BYTE_TO_CHARACTER,
        show_progress=False,
    )
    with guarded("the training text"):
        rust.train_from_iterator(_training_pieces(texts), trainer=trainer)
    size = rust.get_vocab_size()
    if size < vocab_size and not allow_fewer:
        raise TokenizerError(
            f"vocab_size {vocab_size:,} is larger than the text supports; the largest possible is {size:,} "
            f"(no further pair of tokens stands in it {min_frequency} times)"
        )
    return rust.to_str()


def gpt2_definition(vocab: dict[str, Any], merges: list[str], eos: dict[str, Any] | None) -> dict[str, Any]:
    """The content of a `tokenizer.json` with GPT-2's settings and this vocabulary."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{**eos, **flags}] if eos else [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn a failure inside the Rust library, a panic included, into an error that names its source."""
    try:
        yield
    except BaseException as error:
        # The library raises bare Exceptions; a panic is a BaseException of its own.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{name} cannot be used: {error}") from error
        raise


def _training_pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if not text.isascii():
            require_encodable(text)
        for document in text.split(SEPARATOR):
            for piece in cut_pieces(document, _PIECE_CHARACTERS):
                yield from _without_long_words(piece)


def _without_long_words(text: str) -> Iterator[str]:
    """Cut runs of over `_LONGEST_WORD` letters or blanks: learning takes time quadratic in a word."""
    words = text.split()
    blanks_to_spare = len(text) - sum(map(len, words)) - len(words)
    if max(map(len, words), default=0) < _LONGEST_WORD and blanks_to_spare < _LONGEST_WORD:
        yield text
        return
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def require_encodable(text: str) -> None:
    """Raise TokenizerError if `text` has a lone surrogate, saying where."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start:,}; "
            f"that is no character: remove it, or read the file with errors='replace'"
        ) from error
