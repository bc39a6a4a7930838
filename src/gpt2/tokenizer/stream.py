"""Decoding ids as they come, without ever showing half a character."""

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Text of ids pushed one by one; joined, it is `tokenizer.decode(ids)` for any ids.

    A token may end inside a character of several bytes: those bytes wait for the next token.

    Args:
        tokenizer: whose ids they are.
        keep_special: show special tokens such as `<|endoftext|>`.
    """

    def __init__(self, tokenizer: "Tokenizer", *, keep_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes; often the token's text, sometimes nothing.

        Raises:
            TokenizerError: a negative id.
        """
        if not self._keep_special and self._tokenizer.is_special(token_id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What still waits: U+FFFD for a character that never became whole. Ready for a new stream."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
