"""Text to token ids and back: GPT-2's byte-level BPE."""

from gpt2.tokenizer.bpe import END_OF_TEXT, Tokenizer
from gpt2.tokenizer.bulk import BulkEncoder
from gpt2.tokenizer.stream import StreamDecoder

__all__ = ["END_OF_TEXT", "BulkEncoder", "StreamDecoder", "Tokenizer"]
