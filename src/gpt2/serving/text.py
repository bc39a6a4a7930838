"""From new ids to what a client is shown: whole characters, nothing of a stop string, a score for each token."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.generation.text import possible_stop
from gpt2.serving.stream import Score
from gpt2.tokenizer import Tokenizer


class TokenNames:
    r"""Tokens as the API writes them: their text, or `bytes:\xe2\x80` for a part of a character.

    Args:
        tokenizer: whose ids they are.
        vocab_size: of the model, at least the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        raw = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        self.plain = [None if tokenizer.is_special(i) else _decoded(b) for i, b in enumerate(raw)]
        """The text of tokens that are whole characters and not special, else None."""
        self._names = [_decoded(b) or _escaped(b) for b in raw]

    def __getitem__(self, token: int) -> str:
        return self._names[token]


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _escaped(raw: bytes) -> str:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@dataclass(frozen=True)
class Shown:
    """A token that a client has been given."""

    id: int
    score: Score
    offset: int
    """Characters before it in the continuation."""


class ChoiceText:
    """The text of one continuation as it grows.

    Args:
        names: of the tokens.
        stop: the text ends before the first of these.

    Attributes:
        stopped: a stop string has come; nothing more is taken.
        num_tokens: ids taken, those of the stop string and the end included.
    """

    def __init__(self, names: TokenNames, stop: Sequence[str] = ()) -> None:
        self._names, self._stop = names, stop
        self._decoder = names.tokenizer.stream_decoder()
        self._partial = False  # the decoder waits for the rest of a character
        self._held, self._given = "", 0
        self._pending: list[Shown] = []
        self.stopped, self.num_tokens = False, 0

    def push(self, ids: Sequence[int], scores: Sequence[Score] = ()) -> tuple[str, list[Shown]]:
        """New ids, with their scores if there are any -> (text, scored tokens) that may be shown now."""
        if not scores and not self._stop and not self._partial and not self._held:
            plain = [self._names.plain[token] for token in ids]
            if None not in plain:
                self.num_tokens += len(ids)
                text = "".join(plain)  # type: ignore[arg-type]
                self._given += len(text)
                return text, []
        for number, token in enumerate(ids):
            if self.stopped:
                break
            self._take(token, scores[number] if scores else None)
        if self.stopped:
            return self._give(len(self._held))
        return self._give(len(self._held) - possible_stop(self._held, self._stop))

    def close(self) -> tuple[str, list[Shown]]:
        """No more ids come -> what was held back."""
        if self.stopped:
            return "", []
        self._held += self._decoder.flush()
        text, shown = self._give(len(self._held))
        shown += self._pending
        self._pending = []
        return text, shown

    def _take(self, token: int, score: Score | None) -> None:
        self.num_tokens += 1
        if score is not None:
            self._pending.append(Shown(token, score, self._given + len(self._held)))
        new = self._decoder.push(token)
        if not self._names.tokenizer.is_special(token):
            self._partial = self._names.plain[token] is None
        self._held += new
        at = min((at for at in (self._held.find(s) for s in self._stop) if at >= 0), default=-1)
        if at >= 0:
            self._held, self.stopped = self._held[:at], True
            end = self._given + at
            self._pending = [shown for shown in self._pending if shown.offset < end]

    def _give(self, length: int) -> tuple[str, list[Shown]]:
        text, self._held = self._held[:length], self._held[length:]
        self._given += len(text)
        count = len(self._pending)
        if not self.stopped:  # a token is shown when a character after its beginning is
            count = next((i for i, shown in enumerate(self._pending) if shown.offset >= self._given), count)
        shown, self._pending = self._pending[:count], self._pending[count:]
        return text, shown
