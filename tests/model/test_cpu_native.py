"""Operations compiled from C++ against the reference kernels: forward, gradient, odd shapes, threads, both types."""

import itertools

import pytest
import torch
from torch import Tensor

from gpt2 import native
from gpt2.model.ops import IGNORED, cpu_native, fused, reference
from gpt2.model.segments import Segments


@pytest.fixture(autouse=True)
def _library() -> None:
    library, reason = native.library()
    assert library is not None or "cannot build" not in reason, "there is a compiler, and it refuses the sources"
    if library is None:
        pytest.skip(reason)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("heads", "dim", "rows", "lengths"),
    [
        (4, 32, 1, [200, 49, 48, 47, 1]),  # around the size of a block
        (2, 24, 1, [97, 3]),  # heads that fill no register
        (1, 64, 1, [300]),
        (3, 5, 2, [10, 10]),  # two rows of a batch
    ],
)
def test_attention(heads: int, dim: int, rows: int, lengths: list[int], dtype: torch.dtype) -> None:
    time = sum(lengths) // rows
    mixed = draw(rows, time, 3, heads, dim, dtype=dtype)
    exact = mixed.detach().double().requires_grad_()
    slope = torch.randn(rows, time, heads, dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    z = cpu_native.causal_attention(*mixed.unbind(2), Segments(lengths))
    expected = reference.attention(*exact.unbind(2), segments=Segments(lengths))
    (grad,) = torch.autograd.grad(z, mixed, slope)
    (expected_grad,) = torch.autograd.grad(expected, exact, slope.double())
    assert (z - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()
    assert (grad - expected_grad).abs().max() < 2 * TOLERANCE[dtype] * expected_grad.abs().max()


def test_attention_of_tensors_that_lie_apart() -> None:
    q, k, v = (draw(1, 70, 2, 16, seed=seed) for seed in range(3))
    together = cpu_native.causal_attention(*torch.stack([q, k, v], dim=2).unbind(2), Segments([40, 30]))
    assert torch.equal(cpu_native.causal_attention(q, k, v, Segments([40, 30])), together)
    turned = k.detach().transpose(1, 2).contiguous().transpose(1, 2)  # heads before time in memory
    assert torch.equal(cpu_native.causal_attention(q, turned, v, Segments([40, 30])), together)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_no_token_sees_the_future_or_another_document(dtype: torch.dtype) -> None:
    q, k, v = (draw(1, 100, 1, 16, seed=seed, dtype=dtype) for seed in range(3))
    z = cpu_native.causal_attention(q, k, v, Segments([60, 40]))
    for token, (first, last) in {0: (0, 0), 30: (0, 30), 59: (0, 59), 60: (60, 60), 99: (60, 99)}.items():
        grads = torch.autograd.grad(z[0, token].sum(), (k, v), retain_graph=True)
        touched = (grads[0].abs() + grads[1].abs()).sum(dim=(0, 2, 3)).nonzero().flatten()
        assert (touched.min(), touched.max()) == (first, last)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gelu(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-30, 30, 40_001), torch.tensor([0.0, -0.0, 1e-30])]).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = cpu_native.gelu(x), reference.gelu(exact)
    assert (y - expected).abs().max() < TOLERANCE[dtype] * 5
    (grad,), (expected_grad,) = torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), exact)
    assert (grad - expected_grad).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("vocab_size", [5, 64, 777])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cross_entropy(vocab_size: int, dtype: torch.dtype) -> None:
    logits = (draw(40, vocab_size).detach() * 4).to(dtype)
    targets = torch.arange(40) % vocab_size
    targets[7] = IGNORED
    exact = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    losses, kept = torch.empty(40), logits.clone()
    alone = cpu_native.cross_entropy(logits, targets)
    assert torch.equal(logits, kept)
    cpu_native.cross_entropy_(logits, targets, losses)
    assert torch.equal(alone, losses)
    torch.testing.assert_close(losses, expected.float(), atol=5e-6, rtol=1e-6)
    assert (logits - slope).abs().max() < max(1e-6, TOLERANCE[dtype] / 4)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_numbers_that_are_not_finite_stay_visible(dtype: torch.dtype) -> None:
    """The guard of a run must see them."""
    broken = draw(1, 20, 2, 16, dtype=dtype).detach()
    broken[0, 3, 0, 0] = torch.nan
    whole = draw(1, 20, 2, 16, seed=1, dtype=dtype)
    assert cpu_native.causal_attention(whole, broken, whole, Segments([20])).isnan().any()
    assert cpu_native.gelu(broken.requires_grad_()).isnan().any()
    logits, losses = broken.detach().view(20, 32), torch.empty(20)
    cpu_native.cross_entropy_(logits, torch.zeros(20, dtype=torch.long), losses)
    assert losses.isnan().sum() == 1
    assert logits.isnan().any()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    segments, before = Segments([130, 70, 33, 9]), torch.get_num_threads()
    mixed, logits = draw(1, 242, 3, 2, 24, dtype=dtype), draw(242, 300, seed=1, dtype=dtype).detach()

    def everything() -> list[Tensor]:
        z = cpu_native.gelu(cpu_native.causal_attention(*mixed.unbind(2), segments))
        slope, losses = logits.clone(), torch.empty(242)
        cpu_native.cross_entropy_(slope, torch.arange(242), losses)
        return [z, *torch.autograd.grad(z.square().sum(), mixed), slope, losses]

    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(everything())
    finally:
        torch.set_num_threads(before)
    for one, other in itertools.pairwise(results):
        assert all(map(torch.equal, one, other))


def test_training_takes_them_and_nothing_else_does() -> None:
    x = draw(3, 8)
    assert "_GeluBackward" in str(fused.gelu(x).grad_fn)
    assert fused.gelu(x.detach()).grad_fn is None
    many, targets = draw(2**9, 2**8), torch.arange(2**9) % 2**8
    assert fused.cross_entropy(many, targets).grad_fn is not None
    assert torch.equal(fused.cross_entropy(many.detach(), targets), cpu_native.cross_entropy(many.detach(), targets))
    with native.refused("a test"):
        assert "_GeluBackward" not in str(fused.gelu(x).grad_fn)
        assert native.library() == (None, "a test")
