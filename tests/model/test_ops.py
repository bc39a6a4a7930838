"""Reference, fused kernels and PyTorch's own layers agree, forward and gradient."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2 import native
from gpt2.errors import ConfigError
from gpt2.model.ops import IGNORED, Kernels, fused, kernels
from gpt2.model.segments import Segments


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def cases() -> dict[
    str, tuple[Callable[[Kernels, list[Tensor]], Tensor], Callable[[list[Tensor]], Tensor], list[Tensor]]
]:
    """name -> (ours, PyTorch's, inputs)."""
    ids = torch.tensor([[3, 0, 3], [5, 1, 2]])
    targets = torch.tensor([1, IGNORED, 4, 6, 0])
    lengths = [5, 4, 1, 6, 2]
    return {
        "embedding": (lambda k, x: k.embedding(ids, x[0]), lambda x: F.embedding(ids, x[0]), [leaf(7, 4)]),
        "linear": (
            lambda k, x: k.linear(*x),
            lambda x: F.linear(x[0], x[1].T, x[2]),
            [leaf(2, 3, 4), leaf(4, 5, seed=1), leaf(5, seed=2)],
        ),
        "linear without bias": (
            lambda k, x: k.linear(*x, None),
            lambda x: F.linear(x[0], x[1].T),
            [leaf(3, 4), leaf(4, 5, seed=1)],
        ),
        "unembed": (lambda k, x: k.unembed(*x), lambda x: F.linear(*x), [leaf(2, 3, 4), leaf(9, 4, seed=1)]),
        "layer_norm": (
            lambda k, x: k.layer_norm(*x, 1e-5),
            lambda x: F.layer_norm(x[0], (8,), x[1], x[2], 1e-5),
            [leaf(2, 3, 8), leaf(8, seed=1), leaf(8, seed=2)],
        ),
        "gelu": (lambda k, x: k.gelu(x[0]), lambda x: F.gelu(x[0], approximate="tanh"), [leaf(50)]),
        "attention": (lambda k, x: k.attention(*x), torch_attention, qkv(2, 6, 6)),
        "attention with a past": (lambda k, x: k.attention(*x), torch_attention, qkv(2, 3, 7)),
        "attention of one query": (lambda k, x: k.attention(*x), torch_attention, qkv(2, 1, 7)),
        "attention in documents": (
            lambda k, x: k.attention(*x, segments=Segments(lengths)),
            lambda x: torch.cat([torch_attention([p[:, a:b] for p in x]) for a, b in spans(lengths)], dim=1),
            qkv(1, sum(lengths), sum(lengths)),
        ),
        "attention in documents of two rows": (
            lambda k, x: k.attention(*x, segments=Segments([3, 6, 5, 4])),
            lambda x: torch.stack(
                [torch.cat([torch_attention([p[r : r + 1, a:b] for p in x])[0] for a, b in s])
                 for r, s in enumerate([spans([3, 6]), spans([5, 4])])]
            ),
            qkv(2, 9, 9),
        ),
        "cross_entropy": (
            lambda k, x: k.cross_entropy(x[0], targets),
            lambda x: F.cross_entropy(x[0], targets, ignore_index=IGNORED, reduction="none"),
            [leaf(5, 7)],
        ),
        "linear_cross_entropy": (
            lambda k, x: k.linear_cross_entropy(*x, targets),
            lambda x: F.cross_entropy(x[0] @ x[1].T, targets, ignore_index=IGNORED, reduction="sum"),
            [leaf(5, 4), leaf(7, 4, seed=1)],
        ),
    }  # fmt: skip


def qkv(batch: int, queries: int, keys: int) -> list[Tensor]:
    return [leaf(batch, queries, 2, 8), leaf(batch, keys, 2, 8, seed=1), leaf(batch, keys, 2, 8, seed=2)]


def spans(lengths: list[int]) -> list[tuple[int, int]]:
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def torch_attention(x: list[Tensor]) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in x)
    past = k.shape[2] - q.shape[2]
    visible = torch.arange(k.shape[2])[None, :] <= torch.arange(q.shape[2])[:, None] + past
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2)


@pytest.mark.parametrize("name", ["reference", "fused"])
@pytest.mark.parametrize("case", cases())
def test_equals_pytorch(case: str, name: str) -> None:
    ours, theirs, inputs = cases()[case]
    outputs: list[tuple[Tensor, Any]] = []
    for function in (lambda x: ours(kernels(name), x), theirs):
        y = function(inputs)
        slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
        outputs.append((y, torch.autograd.grad((y * slope).sum(), inputs)))
    (y, grads), (expected, expected_grads) = outputs
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)


def test_reference_normalisation_divides_by_n() -> None:
    y = kernels("reference").layer_norm(torch.tensor([[1.0, 3.0]]), torch.ones(2), torch.zeros(2), 0.0)
    assert y.tolist() == [[-1.0, 1.0]]  # mean 2, variance ((-1)^2 + 1^2) / 2 = 1


def test_gelu_is_the_tanh_form_and_not_the_exact_one() -> None:
    x = torch.tensor([2.70])
    for name in ("reference", "fused"):
        assert abs(kernels(name).gelu(x) - F.gelu(x)).item() == pytest.approx(4.73e-4, rel=0.01)


@pytest.mark.parametrize("name", ["reference", "fused"])
def test_dropout_keeps_the_mean_and_zeroes_the_share(name: str) -> None:
    torch.manual_seed(0)
    y = kernels(name).dropout(torch.ones(100_000), 0.25)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert y[y > 0].unique().tolist() == pytest.approx([4 / 3])


def test_softmax_of_reference_does_not_overflow() -> None:
    from gpt2.model.ops.reference import softmax

    torch.testing.assert_close(softmax(torch.tensor([1000.0, 1000.0])), torch.tensor([0.5, 0.5]))


def test_loss_in_blocks_equals_loss_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven and a bit blocks, with a scale from outside and padding in every block."""
    monkeypatch.setitem(fused._LOSS_LOGITS, "cpu", 33 * 97)
    monkeypatch.setattr(fused, "_LOSS_ROWS", 1)
    x, weight = leaf(700, 16), leaf(33, 16, seed=1)
    targets = torch.randint(33, (700,), generator=torch.Generator().manual_seed(2))
    targets[::5] = IGNORED
    grads = []
    for name in ("fused", "reference"):
        loss = kernels(name).linear_cross_entropy(x, weight, targets) / 7.0
        grads.append((loss, *torch.autograd.grad(loss, [x, weight])))
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def test_unknown_kernels_are_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'fused'"):
        kernels("fusd")


def test_attention_dropout_of_the_cpu_drops_its_share_and_has_the_right_gradient() -> None:
    """The output is linear in v through the dropped pattern: v = identity shows it, one row per key."""
    eye = torch.eye(64, dtype=torch.bfloat16).view(1, 64, 1, 64).requires_grad_()
    q, k = (torch.randn(1, 64, 1, 64, dtype=torch.bfloat16).requires_grad_() for _ in range(2))
    pattern = kernels("fused").attention(q, k, eye)
    torch.manual_seed(0)
    dropped = kernels("fused").attention(q, k, eye, dropout=0.25)
    past = torch.ones(64, 64, dtype=torch.bool).tril()
    ratio = (dropped / pattern)[0, :, 0][past]
    assert (ratio == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(
        ratio[ratio > 0].float(), torch.full_like(ratio[ratio > 0].float(), 4 / 3), atol=0.02, rtol=0
    )
    slope = torch.randn(1, 64, 1, 64)
    grads = torch.autograd.grad((dropped * slope.bfloat16()).sum(), [q, k, eye])
    wide = [x.detach().float().requires_grad_() for x in (q, k, eye)]
    kept = ((dropped != 0).float() * 4 / 3).detach()
    exact = (kernels("reference").attention(*wide[:2], torch.eye(64).view(1, 64, 1, 64)) * kept)[0, :, 0] @ wide[2][
        0, :, 0
    ]
    for grad, expected in zip(grads, torch.autograd.grad((exact * slope[0, :, 0]).sum(), wide), strict=True):
        assert (grad.float() - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("time", [1, 5, 128, 129, 300])
def test_bfloat16_attention_of_the_cpu_equals_the_reference_in_float32(time: int, compiled: bool) -> None:
    """Forward and gradients within bfloat16's precision, also where a document spans several blocks."""
    wide = [leaf(2, time, 3, 16, seed=i) for i in range(3)]
    narrow = [x.detach().bfloat16().requires_grad_() for x in wide]
    slope = torch.randn(2, time, 3, 16, generator=torch.Generator().manual_seed(7))
    again = [x.detach().float().requires_grad_() for x in narrow]
    exact = kernels("reference").attention(*again)
    exact_grads = torch.autograd.grad((exact * slope).sum(), again)
    with contextlib.nullcontext() if compiled else native.refused("a test"):
        ours = kernels("fused").attention(*narrow)
        grads = torch.autograd.grad((ours * slope.bfloat16()).sum(), narrow)
    torch.testing.assert_close(ours.float(), exact, atol=0.02, rtol=0.02)
    for grad, exact_grad in zip(grads, exact_grads, strict=True):
        difference = (grad.float() - exact_grad).norm() / exact_grad.norm().clamp(min=1e-6)
        assert difference < 0.02 or exact_grad.norm() < 1e-5


def test_scoring_without_gradients_takes_the_same_formulas() -> None:
    """Inputs as large as those of many documents, for which a forward pass has operations of its own on a CPU."""
    reference, lengths = kernels("reference"), [200, 187, 96, 33, 8]
    x = 3 * torch.randn(3, sum(lengths), 8, 32, generator=torch.Generator().manual_seed(0))
    assert x[0].numel() >= fused._MUCH
    segments, parts = Segments(lengths), x.unsqueeze(1)
    with torch.inference_mode():
        torch.testing.assert_close(fused.gelu(x[0]), reference.gelu(x[0]), atol=2e-6, rtol=1e-5)
        expected = reference.attention(*parts, segments=segments)
        torch.testing.assert_close(fused.attention(*parts, segments=segments), expected, atol=1e-5, rtol=1e-5)
