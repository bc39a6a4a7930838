"""Grids: the partial passes give what whole runs with the same intervention give."""

import pytest
import torch

from gpt2 import GPT2, Tokenizer
from gpt2.errors import ConfigError, DataError
from gpt2.inspection import ablate, ablation_grid, patch, patch_grid, run
from gpt2.inspection.intervals import interval

TEXTS = ["One day a boy found a red box near a tree.", "The dog ran to the park and saw a bird there.", "A cat sat."]


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_ablation_is_the_change_of_the_loss_of_whole_runs(model: GPT2, tokenizer: Tokenizer, how: str) -> None:
    # Of one length: then every position has references enough for a mean of its own.
    plain = [run(model, tokenizer, run(model, tokenizer, text).ids[:9]) for text in TEXTS[:2]]
    grid = ablation_grid(model, tokenizer, [r.ids.tolist() for r in plain], how=how)  # type: ignore[arg-type]
    tokens = sum(len(r.losses) for r in plain)
    whole = sum(float(r.losses.sum()) for r in plain)
    assert grid.num_tokens == tokens
    assert grid.loss == pytest.approx(whole / tokens, abs=1e-5)
    # The grid predicts nothing from the last token, so its means do not see it either.
    references = [r.ids[:-1].tolist() for r in plain]
    for layer, column, part in ((0, 1, {"head": (0, 1)}), (2, 3, {"head": (2, 3)}), (1, 4, {"mlp": 1})):
        item = ablate(how=how, reference=references, **part)  # type: ignore[arg-type]
        total = sum(float(run(model, None, r.ids, do=item).losses.sum()) for r in plain)
        if how == "mean":  # whole runs see one more position, for which no reference stands in
            total = sum(
                float(run(model, None, r.ids[:-1], do=item).losses.sum())
                + float(-torch.log_softmax(run(model, None, r.ids[:-1], do=item).logits[-1], -1)[r.ids[-1]])
                for r in plain
            )
        assert float(grid.change[layer, column]) == pytest.approx((total - whole) / tokens, abs=2e-4)
    assert bool(((grid.low <= grid.change + 1e-5) & (grid.change <= grid.high + 1e-5)).all())
    assert grid.check is not None
    assert grid.check.ok


def test_resampling_changes_the_loss_and_is_the_same_each_time(model: GPT2, tokenizer: Tokenizer) -> None:
    grid = ablation_grid(model, tokenizer, TEXTS, how="resample")
    assert float(grid.change.abs().max()) > 1e-3
    assert torch.equal(grid.change, ablation_grid(model, tokenizer, TEXTS, how="resample").change)


def test_intervals_cover_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for trial in range(200):
        counts = torch.randint(5, 15, (60,), generator=generator)
        sums = counts[:, None] + torch.randn(60, 1, generator=generator) * 3
        low, high = interval(sums, counts, seed=trial)
        hits += bool(low[0] <= 1.0 <= high[0])
    assert 180 <= hits <= 199  # 190 expected
    low, high = interval(torch.tensor([[3.0]]), torch.tensor([2]))
    assert float(low) == float(high) == 1.5


@pytest.mark.parametrize("unit", ["stream", "attention", "mlp", "head"])
def test_patching_is_what_whole_runs_with_a_patch_give(model: GPT2, tokenizer: Tokenizer, unit: str) -> None:
    clean, corrupt = run(model, None, [5, 9, 33, 17, 60, 8]), run(model, None, [5, 9, 41, 17, 60, 8])
    grid = patch_grid(clean, corrupt, 7, 100, unit=unit)

    def lead(logits: torch.Tensor) -> float:
        return float(logits[-1, 7] - logits[-1, 100])

    best, worst = lead(clean.logits), lead(corrupt.logits)
    name = {"stream": "resid_pre", "attention": "attn_out", "mlp": "mlp_out", "head": "z"}[unit]
    for layer in range(3):
        for column in (0, 2, 3):
            place = {"head": column} if unit == "head" else {"position": column}
            patched = run(model, None, corrupt.ids, do=patch(clean, (name, layer), **place))
            expected = (lead(patched.logits) - worst) / (best - worst)
            assert float(grid.recovered[layer, column]) == pytest.approx(expected, abs=1e-3)
    if unit == "stream":
        assert float(grid.recovered[0, 2]) == pytest.approx(1.0, abs=1e-4)  # the one token that differs
        assert float(grid.recovered[:, :2].abs().max()) < 1e-4
    assert grid.check is not None
    assert grid.check.ok


def test_pairs_are_averaged_with_an_interval(model: GPT2) -> None:
    cleans = [run(model, None, [5, 9, n, 17]) for n in (33, 34, 35)]
    corrupts = [run(model, None, [5, 9, n, 17]) for n in (41, 42, 43)]
    together = patch_grid(cleans, corrupts, 7, 100)
    single = [patch_grid(a, b, 7, 100).recovered for a, b in zip(cleans, corrupts, strict=True)]
    torch.testing.assert_close(together.recovered, torch.stack(single).mean(0))
    assert bool((together.low <= together.recovered + 1e-5).all())
    assert together.num_pairs == 3


def test_refusals(model: GPT2, tokenizer: Tokenizer) -> None:
    clean = run(model, None, [5, 9, 33])
    with pytest.raises(ConfigError, match="equally many tokens"):
        patch_grid(clean, run(model, None, [5, 9]), 7, 8)
    with pytest.raises(ConfigError, match="nothing to bring back"):
        patch_grid(clean, clean, 7, 8)
    with pytest.raises(ConfigError, match="unit must be"):
        patch_grid(clean, clean, 7, 8, unit="neuron")
    with pytest.raises(ConfigError, match="zero, mean or resample"):
        ablation_grid(model, tokenizer, TEXTS, how="gone")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without a tokenizer"):
        ablation_grid(model)
    with pytest.raises(DataError, match="none of the 1 texts"):
        ablation_grid(model, None, [[4]])
