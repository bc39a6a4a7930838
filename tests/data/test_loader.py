"""Batches: a pure function of (seed, step), every token once an epoch, the same for any number of parts."""

import numpy as np
import pytest
import torch

from gpt2 import GPT2, GPT2Config
from gpt2.data.loader import BatchLoader
from gpt2.errors import DataError
from gpt2.model.ops import IGNORED
from gpt2.training.loss import LanguageModelLoss


class Tokens:
    """Documents held in memory; id = 1000 * document + place, 0 begins each."""

    def __init__(self, lengths: list[int]) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.ids = np.concatenate([[0, *(1000 * d + np.arange(1, n))] for d, n in enumerate(lengths, 1)])

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.concatenate([self.ids[a : a + n] for a, n in zip(starts, lengths, strict=True)] or [self.ids[:0]])


class Empty(Tokens):
    def __init__(self) -> None:
        self.offsets = np.array([0])


LENGTHS = [5, 3, 40, 8, 1, 12, 7, 30, 2, 9]


def loader(tokens_per_step: int = 16, context: int = 10, seed: int = 0, lengths: list[int] = LENGTHS) -> BatchLoader:
    return BatchLoader(Tokens(lengths), tokens_per_step, context, seed)


def test_every_token_comes_once_an_epoch() -> None:
    batches = loader()
    assert batches.tokens_per_epoch == sum(LENGTHS) == 117
    spans = [batches.pieces(step) for step in range(22)]
    places = np.concatenate(
        [a + np.arange(n) for starts, lengths in spans for a, n in zip(starts, lengths, strict=True)]
    )
    for epoch in range(3):
        assert sorted(places[epoch * 117 : (epoch + 1) * 117]) == list(range(117))
    assert list(places[:117]) != list(places[117:234])  # another order each epoch


def test_batch_is_whole_documents_longest_first_with_the_next_id_as_target() -> None:
    for step in range(22):
        batch = loader().batch(step)
        assert batch.ids.shape == batch.targets.shape == (1, 16)
        assert sum(batch.lengths) == 16
        assert max(batch.lengths) <= 10
        assert list(batch.lengths) == sorted(batch.lengths, reverse=True)
        for ids, targets in zip(
            batch.ids[0].split(list(batch.lengths)), batch.targets[0].split(list(batch.lengths)), strict=True
        ):
            assert torch.equal(ids[1:], targets[:-1])
            assert len({int(i) // 1000 for i in ids if i}) <= 1  # one document
            document, last = int(ids[-1]) // 1000, int(ids[-1])
            if last and last % 1000 == LENGTHS[document - 1] - 1:
                assert targets[-1] == 0  # a document ends with the separator
            elif last:
                assert targets[-1] == last + 1


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    late = loader()
    assert torch.equal(late.batch(17).ids, loader().batch(17).ids)
    assert torch.equal(late.batch(2).ids, loader().batch(2).ids)
    assert not torch.equal(loader(seed=1).batch(2).ids, loader().batch(2).ids)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_share_the_batch_fairly(parts: int) -> None:
    batches = loader(tokens_per_step=48)
    for step in range(8):
        whole = batches.batch(step)
        shares = [batches.batch(step, part, parts) for part in range(parts)]
        pairs = sorted(zip(whole.ids[0].tolist(), whole.targets[0].tolist(), strict=True))
        dealt = [p for s in shares for p in zip(s.ids[0].tolist(), s.targets[0].tolist(), strict=True)]
        assert sorted(dealt) == pairs
        sizes = [share.ids.shape[1] for share in shares]
        assert max(sizes) - min(sizes) <= 10


def test_parts_without_a_document_count_nothing() -> None:
    batches = loader(tokens_per_step=10, lengths=[40, 40])  # one or two pieces of at most ten tokens
    whole, shares = batches.batch(0), [batches.batch(0, part, 5) for part in range(5)]
    full = [share for share in shares if share.targets[0, 0] != IGNORED]
    assert sorted(i for share in full for i in share.ids[0].tolist()) == sorted(whole.ids[0].tolist())
    assert {tuple(share.ids.shape) for share in shares[2:]} == {(1, 1)}
    config = GPT2Config(vocab_size=64, context_length=10, d_model=8, num_layers=1, num_heads=1)
    for kernels in ("fused", "reference"):
        loss = LanguageModelLoss(GPT2(config, kernels))
        total, _ = loss(shares[4])
        total.backward()
        assert total == 0
        assert all(p.grad is None or not p.grad.any() for p in loss.parameters())


def test_step_ten_million_needs_no_walk() -> None:
    batch = loader().batch(10_000_000)
    assert batch.ids.shape == (1, 16)


def test_step_larger_than_the_text_spans_epochs() -> None:
    batch = loader(tokens_per_step=300).batch(0)
    counts = np.unique(batch.ids[0].numpy(), return_counts=True)[1]
    assert batch.ids.shape == (1, 300)
    assert counts.max() >= 2


def test_cuts_of_a_long_document_wander() -> None:
    batches = loader(tokens_per_step=40, context=10, lengths=[40])
    cuts = {tuple(sorted(batches.pieces(step)[0].tolist())) for step in range(8)}
    assert len(cuts) > 3


def test_no_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match="no tokens"):
        BatchLoader(Empty(), 16, 10)
