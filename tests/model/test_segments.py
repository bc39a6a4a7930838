"""How documents are grouped: every token once, in few shapes."""

import random

import torch

from gpt2.model.segments import Segments

CPU = torch.device("cpu")


def batches(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [sorted((draw.randint(1, 256) for _ in range(draw.randint(1, 30))), reverse=True) for _ in range(count)]


def test_groups_hold_every_document_in_order_and_little_padding() -> None:
    for lengths in batches(50):
        groups = Segments(lengths).groups(CPU)
        assert [group.tokens.start for group in groups] == [0, *(group.tokens.stop for group in groups[:-1])]
        assert groups[-1].tokens.stop == sum(lengths)
        assert sum(group.count for group in groups) == len(lengths)
        assert sum(group.count * group.longest for group in groups) < sum(lengths) + 32 * len(lengths)


def test_padding_and_back_gives_the_tokens_again_and_gradients_without_the_padding() -> None:
    for lengths in [[40, 40, 33], [64, 64], [7]]:
        (group, *_) = Segments(lengths).groups(torch.device("meta"))  # whole groups, as on a GPU
        assert group.count == len(lengths)
    (group,) = Segments([40, 33]).groups(CPU)
    x = torch.randn(73, 2, 4)
    padded, zeros = group.pad(x), group.pad_with_zeros(x)
    assert padded.shape == zeros.shape == (2, 64, 2, 4)
    assert torch.equal(group.unpad(padded), x)
    assert torch.equal(padded[1, :33], x[40:])
    assert zeros[0, 40:].abs().sum() == zeros[1, 33:].abs().sum() == 0


def test_a_cpu_meets_few_shapes() -> None:
    """Each new shape of a product is compiled and kept there: 300 batches of 15 documents would bring over a thousand."""
    shapes = {(g.count, g.longest) for lengths in batches(300) for g in Segments(lengths).groups(CPU)}
    assert len(shapes) <= 8 * 4
