"""Real text to measure on: some of the bundled stories, or what the caller gives, as documents of ids."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gpt2.errors import ConfigError, DataError
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

Texts = Iterable[str] | Iterable[Sequence[int]] | Tensor
"""Documents as text, as ids, or as a (documents, T) tensor of ids."""

# Tokens of a tapped pass: the patterns of all heads must fit the memory.
_TOKENS_PER_BATCH = 4096

_remembered: dict[tuple[str, int], list[list[int]]] = {}


def documents(
    model: GPT2, tokenizer: Tokenizer | None, texts: Texts | None = None, *, count: int = 64, shortest: int = 2
) -> list[list[int]]:
    """Ids of documents to measure on, each cut to what the model's context and one target hold.

    Text becomes ids as a document begins in training: `<|endoftext|>`, then the text. Ids are taken as given.

    Args:
        model: gives the context length.
        tokenizer: for text.
        texts: None: the first bundled stories.
        count: how many documents of the bundled stories.
        shortest: documents of fewer ids are left out.

    Raises:
        ConfigError: text, or no texts, without a tokenizer.
        DataError: nothing is left.
    """
    longest = model.config.context_length + 1
    if texts is None:
        if tokenizer is None:
            raise ConfigError("without a tokenizer the bundled stories cannot be read: give the ids to measure on")
        ids = _bundled(tokenizer, count)
    else:
        ids = [_encode(tokenizer, text) for text in (texts.tolist() if isinstance(texts, Tensor) else texts)]
    kept = [row[:longest] for row in ids if len(row) >= shortest]
    if not kept:
        raise DataError(f"none of the {len(ids)} texts has {shortest} tokens or more")
    return kept


def batches(rows: Sequence[Sequence[int]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts as padded batches of similar length: ids (B, T) and where they are real, (B, T) bool.

    The padding stands at the end, where no real token sees it.
    """
    left = sorted(rows, key=len, reverse=True)
    while left:
        width = len(left[0])
        count = max(1, _TOKENS_PER_BATCH // width)
        chosen, left = left[:count], left[count:]
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in chosen], device=device)
        lengths = torch.tensor([len(row) for row in chosen], device=device)
        yield ids, torch.arange(width, device=device) < lengths[:, None]


def _encode(tokenizer: Tokenizer | None, text: str | Sequence[int]) -> list[int]:
    if not isinstance(text, str):
        return [int(token) for token in text]
    if tokenizer is None:
        raise ConfigError("text needs a tokenizer; without one give ids")
    return [tokenizer.eos_token_id, *tokenizer.encode(text)]


def _bundled(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    from gpt2.data import iter_documents

    key = tokenizer.fingerprint, count
    if key not in _remembered:
        stories = [story for _, story in zip(range(count), iter_documents(), strict=False)]
        _remembered[key] = [_encode(tokenizer, story) for story in stories]
    return _remembered[key]
