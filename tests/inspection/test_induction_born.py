"""Induction heads form in two layers and cannot in one, trained on the same texts (Elhage et al., 2021; Olsson et al., 2022)."""

import pytest
import torch
from torch import Tensor

from gpt2 import GPT2, GPT2Config
from gpt2.inspection import Induction, induction
from gpt2.model.ops import IGNORED
from gpt2.training.optimizers import build_optimizer

VOCABULARY, TIME, STEPS = 32, 32, 200


def periodic(generator: torch.Generator, count: int = 32) -> tuple[Tensor, Tensor]:
    """Texts of one random stretch of 4 to 16 distinct tokens, over and over; targets are IGNORED while it is new.

    The period differs from text to text, so that no fixed distance leads to the answer.
    """
    period = torch.randint(4, 17, (count, 1), generator=generator)
    stretch = torch.rand(count, VOCABULARY, generator=generator).argsort(dim=1)
    place = torch.arange(TIME + 1)[None]
    ids = stretch.gather(1, place % period)
    return ids[:, :-1], torch.where(place[:, 1:] > period, ids[:, 1:], IGNORED)


def trained(num_layers: int) -> Induction:
    config = GPT2Config(vocab_size=VOCABULARY, context_length=TIME, d_model=64, num_layers=num_layers, num_heads=4)
    model = GPT2(config, generator=torch.Generator().manual_seed(0))
    update, draws = build_optimizer(model, "adamw", 3e-3, 0.0), torch.Generator().manual_seed(1)
    for step in range(STEPS):
        ids, targets = periodic(draws)
        losses = model.kernels.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        (losses.sum() / (targets != IGNORED).sum()).backward()
        update.step(min(1.0, (step + 1) / 50))
        model.zero_grad(set_to_none=True)
    return induction(model)


@pytest.mark.slow
def test_two_layers_learn_induction_and_one_cannot() -> None:
    one, two = trained(1), trained(2)
    assert one.chance == two.chance == pytest.approx(0.07, abs=0.01)
    assert float(two.scores.max()) > 0.4  # the untrained model scores chance
    assert two.best[0] == 1  # the first layer only tells each token which one came before it
    assert float(two.by_position.max()) < 0.15  # nor does looking a fixed distance back explain it
    assert float(one.scores.max()) < 0.15
    assert float((one.scores - one.by_position).abs().max()) < 0.03
