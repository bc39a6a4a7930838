"""AdamW and Muon by hand, against torch.optim's."""

import pytest
import torch
from torch import Tensor

from gpt2 import GPT2, GPT2Config
from gpt2.training.adamw import AdamW
from gpt2.training.muon import Muon, orthogonalize
from gpt2.training.optimizers import build_optimizer, gradient_norm


def twins(*shapes: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two equal sets of parameters."""
    torch.manual_seed(0)
    values = {f"p{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    return ({n: v.clone().requires_grad_() for n, v in values.items()} for _ in range(2))  # pyright: ignore


def give_gradients(step: int, *sets: dict[str, Tensor]) -> None:
    for name in sets[0]:
        torch.manual_seed(100 * step + int(name[1:]))
        grad = torch.randn(sets[0][name].shape)
        for parameters in sets:
            parameters[name].grad = grad.clone()


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.8, 0.99)])
def test_adamw_equals_torch(betas: tuple[float, float], weight_decay: float) -> None:
    ours, theirs = twins((5, 7), (3,))
    mine = AdamW(ours, 0.01, betas, 1e-8, weight_decay)
    reference = torch.optim.AdamW(theirs.values(), 0.01, betas, 1e-8, weight_decay)
    for step in range(20):
        give_gradients(step, ours, theirs)
        factor = 1.0 - step / 20
        reference.param_groups[0]["lr"] = 0.01 * factor
        mine.step(factor)
        reference.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_muon_equals_torch_in_its_layout(weight_decay: float) -> None:
    """Ours stores (in, out), torch.optim.Muon scales by sqrt(max(1, rows / columns)) of (out, in)."""
    ours, _ = twins((16, 16), (16, 48), (48, 16), (16, 16))
    theirs = {name: value.detach().T.clone().requires_grad_() for name, value in ours.items()}
    mine = Muon(ours, 0.02, 0.9, weight_decay)
    reference = torch.optim.Muon(theirs.values(), 0.02, weight_decay, 0.9, adjust_lr_fn="original")
    for step in range(5):
        give_gradients(step, ours)
        for name in ours:
            theirs[name].grad = ours[name].grad.T.clone()
        mine.step()
        reference.step()
    for name in ours:
        # Newton-Schulz runs in bfloat16, and the two multiply in another order.
        torch.testing.assert_close(ours[name], theirs[name].T, atol=2e-3, rtol=0)


def test_muon_takes_query_key_and_value_apart() -> None:
    together, _ = twins((8, 24))
    parts, _ = twins((8, 24))
    apart = {f"p{i}": piece.detach().clone().requires_grad_() for i, piece in enumerate(parts["p0"].chunk(3, dim=1))}
    joint = Muon(together, 0.1, splits={"p0": 3})
    single = Muon(apart, 0.1)
    for step in range(3):
        give_gradients(step, together)
        for i, grad in enumerate(together["p0"].grad.chunk(3, dim=1)):
            apart[f"p{i}"].grad = grad.clone()
        joint.step()
        single.step()
    torch.testing.assert_close(together["p0"], torch.cat(list(apart.values()), dim=1))


def test_orthogonalize_makes_all_directions_about_equally_long() -> None:
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    before, after = torch.linalg.svdvals(matrices), torch.linalg.svdvals(orthogonalize(matrices).float())
    assert before.max() / before.min() > 4
    assert after.min() > 0.6
    assert after.max() < 1.3
    assert orthogonalize(torch.zeros(1, 4, 4)).abs().max() == 0


def test_saved_state_continues_exactly() -> None:
    config = GPT2Config(vocab_size=40, context_length=8, d_model=16, num_layers=1, num_heads=2)
    for name in ("muon", "adamw"):
        models = [GPT2(config, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
        optimizers = [build_optimizer(model, name, 0.02, 0.1) for model in models]
        for step in range(6):
            if step == 3:
                optimizers[1] = build_optimizer(models[1], name, 0.02, 0.1)
                optimizers[1].load_state_dict(optimizers[0].state_dict())
            for model, optimizer in zip(models, optimizers, strict=True):
                model.zero_grad()
                model(torch.tensor([[1, 2, 3, step]])).square().sum().backward()
                optimizer.step(0.5)
        for a, b in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(a, b)


def test_every_parameter_has_exactly_one_optimizer() -> None:
    model = GPT2(GPT2Config(vocab_size=40, context_length=8, d_model=16, num_layers=2, num_heads=2))
    everything = sorted(name for name, _ in model.named_parameters())
    for name in ("muon", "adamw"):
        parts = build_optimizer(model, name, 0.02, 0.1).parts
        assert sorted(n for part in parts.values() for n in part.parameters) == everything
    parts = build_optimizer(model, "muon", 0.02, 0.1).parts
    assert set(parts["tables"].parameters) == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert all(".h." in n and n.endswith(".weight") and ".ln_" not in n for n in parts["hidden"].parameters)
    assert (parts["tables"].weight_decay, parts["vectors"].weight_decay) == (0.1, 0)
    assert build_optimizer(model, "adamw", 0.02, 0.1).parts["vectors"].weight_decay == 0


@pytest.mark.parametrize(("d_model", "rate"), [(32, 0.02), (256, 0.02), (512, 0.01), (1024, 0.005)])
def test_the_embeddings_rate_falls_with_the_width(d_model: int, rate: float) -> None:
    model = GPT2(GPT2Config(64, 8, d_model, 1, 2))
    parts = build_optimizer(model, "muon", 0.02, 0.1).parts
    assert (parts["tables"].lr, parts["vectors"].lr, parts["hidden"].lr) == (rate, 0.01, 0.02)


def test_gradient_norm_equals_torch() -> None:
    parameters, _ = twins((5, 7), (3,))
    give_gradients(0, parameters)
    expected = torch.nn.utils.get_total_norm([p.grad for p in parameters.values()])
    torch.testing.assert_close(gradient_norm(list(parameters.values())), expected)
