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


def test_padding_and_back_gives_the_tokens_again() -> None:
    (group,) = Segments([40, 33]).groups(CPU)
    x = torch.randn(73, 2, 4)
    padded = group.pad(x)
    assert padded.shape == (2, 64, 2, 4)
    assert torch.equal(group.unpad(padded), x)
    assert torch.equal(padded[1, :33], x[40:])


def test_rows_by_head_hold_each_document_and_no_gradient_in_the_padding() -> None:
    lengths = [70, 40, 40, 33, 5]  # groups of 1, 2, 1 and 1 documents
    layout = Segments(lengths).head_rows(2)
    assert layout.shapes == [(2, 96), (4, 64), (2, 64), (2, 32)]
    x = torch.randn(sum(lengths), 2, 4)
    assert torch.equal(layout.gather(layout.spread(x), 2), x)
    assert torch.equal(layout.gather(layout.spread_gradient(x), 2), x)
    third = layout.rectangles(layout.spread(x))[1][2:]  # the second document of the second group: (H, 64, d)
    assert torch.equal(third[:, :40], x[110:150].transpose(0, 1))
    zeros = layout.rectangles(layout.spread_gradient(x))
    assert zeros[0][:, 70:].abs().sum() == zeros[2][:, 33:].abs().sum() == 0


def test_a_cpu_meets_few_shapes() -> None:
    """Each new shape of a product is compiled and kept there: 300 batches of 15 documents would bring over a thousand."""
    shapes = {(g.count, g.longest) for lengths in batches(300) for g in Segments(lengths).groups(CPU)}
    assert len(shapes) <= 8 * 4
