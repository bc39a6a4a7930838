"""What a `tokenizer.json` may say. It comes from strangers: it is checked before any library parses it.

The rules allow GPT-2's tokenizer and nothing else. They also keep out files that crash the Rust
library (a merge of unknown tokens makes it panic) or make its regex engine run for ever.
"""

import json
from pathlib import Path
from typing import Any

from gpt2.errors import TokenizerError
from gpt2.tokenizer.byte_level import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE

MAX_FILE_BYTES = 32 << 20
MAX_VOCABULARY = 2**18  # five times GPT-2's
_LONGEST_ADDED = 1000  # characters: the library builds an automaton with a state for each
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")


def read_json(path: Path) -> dict[str, Any]:
    """Parse a small JSON file of one object.

    Raises:
        TokenizerError: missing, unreadable, too large, not UTF-8, not JSON, or not an object.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged: it is not JSON ({error}); get it again") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is not a tokenizer file: it holds a JSON {type(content).__name__}, not an object")
    return content


def read_text(path: Path) -> str:
    """A small file of text.

    Raises:
        TokenizerError: missing, unreadable, too large, or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path} is over {MAX_FILE_BYTES >> 20} MiB; no tokenizer file is that large")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is damaged: it is not UTF-8 ({error}); get it again") from error


def check(content: dict[str, Any], name: str) -> None:
    """Refuse whatever is not GPT-2's byte-level BPE.

    Args:
        content: a parsed `tokenizer.json`.
        name: its path, for messages.

    Raises:
        TokenizerError: naming the file and what is wrong with it.
    """
    try:
        model = _object(content.get("model"), "model")
        _check_settings(model)
        vocab = _object(model.get("vocab"), "model.vocab")
        _require(len(vocab) <= MAX_VOCABULARY, f"its vocabulary has {len(vocab):,} tokens, over {MAX_VOCABULARY:,}")
        _check_vocab(vocab, _check_added(content.get("added_tokens") or [], vocab))
        _check_merges(model.get("merges"), vocab)
        _check_normalizer(content.get("normalizer"))
        _check_pre_tokenizer(content.get("pre_tokenizer"))
        _require(_type(content.get("decoder")) == "ByteLevel", "its decoder is not ByteLevel")
    except _Refused as error:
        raise TokenizerError(f"{name} is not a GPT-2 tokenizer: {error}") from error


class _Refused(Exception):
    pass


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Refused(reason)


def _object(value: Any, name: str) -> dict[str, Any]:
    _require(isinstance(value, dict), f"{name} is missing or not a JSON object")
    return value


def _type(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_VOCABULARY


def _check_settings(model: dict[str, Any]) -> None:
    kind = model.get("type", "BPE" if "merges" in model else None)  # old files leave it out
    _require(kind == "BPE", f"its model is {kind!r}, not 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        _require(not model.get(key), f"model.{key} is {model.get(key)!r}; GPT-2 has none")


def _check_added(tokens: Any, vocab: dict[str, Any]) -> dict[str, int]:
    """The added tokens as {content: id}."""
    _require(isinstance(tokens, list), "added_tokens is not a list")
    added: dict[str, int] = {}
    for token in tokens:
        text, number = _object(token, "an added token").get("content"), token.get("id")
        if not isinstance(text, str) or not text:
            raise _Refused(f"an added token has the content {text!r}")
        _require(len(text) <= _LONGEST_ADDED, f"the added token {text[:20]!r}... has {len(text):,} characters")
        _require(_is_id(number), f"the added token {text!r} has the id {number!r}")
        _require(added.setdefault(text, number) == number, f"the added token {text!r} stands twice")
        _require(vocab.get(text, number) == number, f"{text!r} has two ids, {number} and {vocab.get(text)}")
    return added


def _check_vocab(vocab: dict[str, Any], added: dict[str, int]) -> None:
    wrong = next((token for token, number in vocab.items() if not _is_id(number)), None)
    _require(wrong is None, f"the token {wrong!r} has the id {vocab.get(wrong or '')!r}")
    spelled = frozenset(CHARACTER_TO_BYTE).issuperset
    strange = next((token for token in vocab if token not in added and not (token and spelled(token))), None)
    _require(strange is None, f"the token {strange!r} is not spelled in byte-level characters")
    missing = [character for character in BYTE_TO_CHARACTER if character not in vocab]
    _require(not missing, f"its vocabulary lacks {len(missing)} of the 256 bytes, so some text would be lost")
    ids = {**vocab, **added}.values()
    _require(len(set(ids)) == len(ids), "two of its tokens share an id")
    gap = next((number for number, present in enumerate(sorted(ids)) if number != present), None)
    _require(gap is None, f"its ids have a gap: no token has the id {gap}")


def _check_merges(merges: Any, vocab: dict[str, Any]) -> None:
    _require(isinstance(merges, list), "model.merges is missing or not a list")
    for rank, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        _require(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) and part for part in pair),
            f"merge {rank} is {merge!r}, not a pair of tokens",
        )
        for token in (*pair, "".join(pair)):
            _require(token in vocab, f"merge {rank} names {token!r}, which is not in the vocabulary")


def _check_normalizer(normalizer: Any) -> None:
    if _type(normalizer) == "Sequence":
        parts = normalizer.get("normalizers") or []
        _require(isinstance(parts, list), "its normalizers are no list")
        _require(all(_type(part) != "Sequence" for part in parts), "a sequence of normalizers stands in another")
        for part in parts:
            _check_normalizer(part)
        return
    _require(
        normalizer is None or _type(normalizer) in _NORMALIZERS,
        f"its normalizer is {_type(normalizer)!r}; GPT-2 has none",
    )


def _check_pre_tokenizer(value: Any) -> None:
    """ByteLevel with its own pattern, or the same pattern written out before a ByteLevel without."""
    parts = value.get("pretokenizers") if _type(value) == "Sequence" else [value]
    _require(isinstance(parts, list) and len(parts) in (1, 2), "its pre_tokenizer is not ByteLevel")
    *splits, byte_level = parts
    _require(_type(byte_level) == "ByteLevel", f"its pre_tokenizer is {_type(byte_level)!r}, not 'ByteLevel'")
    _require(byte_level.get("add_prefix_space") is False, "its pre_tokenizer puts a space before every text")
    _require(
        byte_level.get("use_regex", True) is (not splits),
        "its pre_tokenizer must split by GPT-2's pattern exactly once",
    )
    for split in splits:
        pattern = split.get("pattern") if _type(split) == "Split" else None
        _require(
            pattern == {"Regex": GPT2_PATTERN},
            f"its pre_tokenizer splits by {pattern!r}, not by GPT-2's pattern",
        )
        _require(
            split.get("behavior") == "Isolated" and split.get("invert", False) is False,
            "its pre_tokenizer throws text away",
        )
