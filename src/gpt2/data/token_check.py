"""What a tokenizer makes of a text: tokens, what a context cuts, what is not given back."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gpt2.documents import Piece
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.bulk import BulkEncoder


@dataclass(frozen=True)
class TokenReport:
    """Tokens of a text. Training reads every one: what is longer than the context is cut, not dropped."""

    tokens: int
    """Without the `<|endoftext|>` before each document."""
    bytes_per_token: float
    median: float
    """Tokens of a document."""
    longest: int
    context_length: int | None
    cut_documents: int | None
    """Longer than the context; None: no context was given."""
    out_of_sight: float | None
    """Share of the tokens that are read without the beginning of their document in sight."""
    lost: float
    """Share of the text's bytes, in pieces that do not decode to what they were; nothing else is ever lost."""
    unused_ids: int
    """Of the vocabulary, never used."""
    out_of_range: int
    """Ids at or beyond the vocabulary."""

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            f"tokens               {self.tokens:,} ({self.bytes_per_token:.2f} bytes each), {self.median:,.0f} in the "
            f"median document, {self.longest:,} in the longest",
            f"vocabulary           {self.unused_ids:,} ids never used, {self.out_of_range:,} out of range",
            f"lost by tokenising   {self.lost:.3%} of the bytes",
        ]
        if self.cut_documents is not None:
            rows.append(
                f"beyond the context   {self.cut_documents:,} documents are longer than {self.context_length:,}; "
                f"{self.out_of_sight or 0:.1%} of the tokens do not see their document's beginning"
            )
        return rows


def count_tokens(pieces: Iterable[Piece], tokenizer: Tokenizer, context_length: int | None) -> TokenReport:
    """Tokenise a text, as training would, and count.

    Args:
        pieces: of documents, in order.
        tokenizer: whose ids they become.
        context_length: of the model; None: what is cut is not counted.
    """
    bulk = BulkEncoder(tokenizer)
    dtype = np.dtype(f"<u{bulk.itemsize}")
    uses = np.zeros(tokenizer.vocab_size, np.int64)
    lengths, length, num_bytes, lost, beyond = [], 0, 0, 0, 0
    for text, last in pieces:
        ids = np.frombuffer(bulk.encode(text), dtype)
        good = ids[ids < tokenizer.vocab_size]
        beyond += len(ids) - len(good)
        uses += np.bincount(good, minlength=len(uses))
        size = len(text.encode("utf-8"))
        num_bytes += size
        lost += size if tokenizer.decode(good.tolist()) != text else 0
        length += len(ids)
        if last:
            lengths.append(length)
            length = 0
    table, total = np.asarray(lengths), int(np.sum(lengths))
    cut = table[table + 1 > context_length] if context_length else None
    return TokenReport(
        tokens=total,
        bytes_per_token=num_bytes / max(1, total),
        median=float(np.median(table)),
        longest=int(table.max()),
        context_length=context_length,
        cut_documents=None if cut is None else len(cut),
        out_of_sight=None if cut is None else float((cut + 1 - (context_length or 0)).sum() / (total + len(table))),
        lost=lost / max(1, num_bytes),
        unused_ids=int((uses == 0).sum()),
        out_of_range=beyond,
    )
