"""Tokens as people read them: spaces and line ends made visible, split characters as bytes."""

from collections.abc import Iterable, Sequence

from gpt2.errors import ConfigError
from gpt2.tokenizer import Tokenizer

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(raw: bytes) -> str:
    """A token's bytes as text: `␣dog`, `⏎`, `⟨E2 80⟩` for a part of a character.

    Only the first space is marked, and all of a token that is nothing else: `␣a b` reads as it should.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{raw.hex(' ').upper()}⟩"
    if not text.strip(" "):
        return "␣" * len(text)
    text = ("␣" + text[1:]) if text[0] == " " else text
    return "".join(
        _VISIBLE[c] if c in "\n\t\r" else c if c.isprintable() else f"⟨{ord(c):02X}⟩" for c in text
    )  # fmt: skip


def token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """How one token is shown; without a tokenizer, its id."""
    return str(token_id) if tokenizer is None else visible(tokenizer.token_bytes(int(token_id)))


def token_texts(tokenizer: Tokenizer | None, ids: Iterable[int]) -> list[str]:
    """How tokens are shown."""
    return [token_text(tokenizer, token_id) for token_id in ids]


def single_token(tokenizer: Tokenizer | None, token: str | int, vocab_size: int) -> int:
    """The id of a token given as text or id.

    Raises:
        ConfigError: text of several tokens (the message shows them), or no such id.
    """
    if isinstance(token, str) and tokenizer is not None:
        ids = [tokenizer.eos_token_id] if token == "<|endoftext|>" else tokenizer.encode(token)
        if len(ids) != 1:
            parts = " + ".join(repr(part) for part in token_texts(tokenizer, ids)) or "nothing"
            hint = "" if token[:1] in (" ", "") else f"; within a text a word has a space before it: {' ' + token!r}"
            raise ConfigError(f"{token!r} is not one token but {parts}{hint}")
        return ids[0]
    if isinstance(token, bool) or not isinstance(token, int):
        raise ConfigError(f"a token is a string or an id; without a tokenizer only an id, got {token!r}")
    if not 0 <= token < vocab_size:
        raise ConfigError(f"there is no token id {token}: they go from 0 to {vocab_size - 1:,}")
    return token


def shorten(text: str, width: int) -> str:
    """`text`, cut to `width` characters with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def quoted(tokens: Sequence[str], width: int = 62) -> str:
    """Tokens joined to one line for a title; of a long one the beginning and the end."""
    text = "".join(tokens).replace("␣", " ").replace("⏎", " ").strip()
    if len(text) <= width:
        return f"“{text}”"
    start, end = text[: width // 2 - 1], text[-width // 2 + 2 :]
    start, end = start.rsplit(" ", 1)[0] if " " in start else start, end.split(" ", 1)[1] if " " in end else end
    return f"“{start} … {end}”"
