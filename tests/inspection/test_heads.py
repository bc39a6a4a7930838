"""Induction, kinds of heads, the embedding and timelines, on heads and weights whose answer is known."""

from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.checkpoint.snapshots import save_snapshot
from gpt2.errors import CheckpointError, ConfigError
from gpt2.inspection import (
    embedding_map,
    head_kinds,
    induction,
    neighbours,
    position_similarity,
    repeats,
    run,
    timeline,
)
from gpt2.inspection.induction import score
from gpt2.inspection.views import Question, view


def test_repeats_repeat_and_differ_in_length_place_and_distance() -> None:
    drawn = repeats(50, count=200, time=40, begin=60)
    assert bool((drawn.ids[:, 0] == 60).all())
    for ids, first, second, length in zip(drawn.ids, drawn.first, drawn.second, drawn.length, strict=True):
        assert torch.equal(ids[first : first + length], ids[second : second + length])
        assert first >= 1
        assert first + length <= second
        assert second + length <= 40
    assert len(set((drawn.second - drawn.first).tolist())) > 10
    assert len(set(drawn.length.tolist())) > 10
    with pytest.raises(ConfigError, match="8 tokens"):
        repeats(50, time=7)


def test_a_perfect_head_scores_one_and_one_that_looks_back_a_fixed_distance_does_not() -> None:
    drawn = repeats(1000, count=300, time=40)
    matches, queries = drawn.matches(), drawn.repeated()
    place = torch.arange(40)
    for query in (drawn.second + 1)[:20].tolist():
        row = matches[0, query]
        assert all(drawn.ids[0, key - 1] == drawn.ids[0, query] for key in row.nonzero()[:, 0].tolist())
    perfect = matches.float() / matches.sum(-1, keepdim=True).clamp(min=1)
    distance = int((drawn.second - drawn.first).float().median()) - 1
    back = (place[:, None] - place[None, :] == distance).float().expand(300, 40, 40)
    scores = score(torch.stack([perfect, back], dim=1)[None], matches, queries)[0]
    assert float(scores[0]) == pytest.approx(1.0, abs=1e-6)
    assert float(scores[1]) < 0.2
    moved = score(torch.stack([perfect, back], dim=1)[None], matches.roll(1, 0), queries.roll(1, 0))[0]
    assert float(moved[0]) < 0.2  # of other texts' repeats it knows nothing
    assert float(moved[1]) == pytest.approx(float(scores[1]), abs=0.1)


def test_an_untrained_model_is_at_chance(model: GPT2, tokenizer: Tokenizer) -> None:
    fresh = GPT2(model.config, generator=torch.Generator().manual_seed(0))
    found = induction(fresh, tokenizer, count=32)
    assert bool(((found.scores - found.chance).abs() < 0.02).all())
    assert found.loss_first == pytest.approx(found.loss_second, abs=0.1)
    assert found.check is not None
    assert found.check.ok
    assert fresh.training


def looks_back(model: GPT2) -> GPT2:
    """Set head 0 of layer 0 to look at the previous token, by the position embeddings alone."""
    config = model.config
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        norm = model.transformer.h[0].ln_1
        norm.weight.fill_(1.0)
        angle = torch.arange(config.context_length)[:, None] * torch.tensor([0.7, 1.3, 2.1, 2.9])
        model.transformer.wpe.weight[:, :8] = torch.cat([angle.cos(), angle.sin()], dim=1)
        turn = torch.tensor([0.7, 1.3, 2.1, 2.9])
        q = model.transformer.h[0].attn.c_attn.weight  # (D, 3 D): columns 0 to d are head 0's query
        d = config.d_model
        for i in range(4):
            q[i, i], q[i + 4, i] = 9 * turn[i].cos(), 9 * turn[i].sin()
            q[i, i + 4], q[i + 4, i + 4] = -9 * turn[i].sin(), 9 * turn[i].cos()
            q[i, d + i] = q[i + 4, d + i + 4] = 1.0
    return model


def test_a_head_made_to_look_back_is_named_and_the_others_are_not() -> None:
    config = GPT2Config(vocab_size=64, context_length=32, d_model=32, num_layers=1, num_heads=4)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(64, (16, 32), generator=generator)
    kinds = head_kinds(looks_back(GPT2(config)).eval(), None, texts)
    assert kinds.names == [["previous token", "", "", ""]]
    assert float(kinds.scores[0, 0, 0]) > 0.5
    assert float(kinds.threshold[0]) < 0.2
    assert float(kinds.entropy[0, 1]) > float(kinds.entropy[0, 0])


def test_neighbours_and_maps(model: GPT2, tokenizer: Tokenizer) -> None:
    weight = model.transformer.wte.weight.detach()
    found = neighbours(model, None, 7, k=5)
    cosines = torch.nn.functional.cosine_similarity(weight, weight[7][None], dim=-1)
    cosines[7] = -2
    assert torch.equal(found.ids, cosines.topk(5).indices)
    torch.testing.assert_close(found.cosines, cosines.topk(5).values)
    drawn = embedding_map(model, tokenizer, count=40)
    rows = weight[drawn.ids].double()
    values = torch.linalg.eigvalsh(torch.cov(rows.T)).flip(0)
    torch.testing.assert_close(drawn.shares.double(), values[:2] / values.sum(), atol=1e-5, rtol=1e-4)
    assert drawn.check is not None
    assert drawn.check.ok
    alike = position_similarity(model)
    wpe = model.transformer.wpe.weight.detach()
    assert float(alike.cosines[3, 9]) == pytest.approx(float(torch.cosine_similarity(wpe[3], wpe[9], dim=0)), abs=1e-5)


def test_timelines_measure_each_snapshot(model: GPT2, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="neither snapshots nor checkpoints"):
        timeline(folder, "loss")
    fresh = GPT2(model.config, generator=torch.Generator().manual_seed(0))
    save_snapshot(folder / "training/snapshots", fresh, 0, 0)
    save_snapshot(folder / "training/snapshots", model, 50, 3200)

    def spread(now: GPT2, _: Tokenizer) -> float:
        return float(now.transformer.wte.weight.detach().std())

    found = timeline(folder, spread)
    assert found.steps == [0, 50]
    assert found.tokens == [0, 3200]
    expected = [float(m.transformer.wte.weight.detach().std()) for m in (fresh, model)]
    assert found.lines["spread"] == pytest.approx(expected, rel=1e-3)
    film = timeline(folder, "attention", text="Once upon a time", layer=1, head=2)
    assert film.frames is not None
    assert film.frames.shape[0] == 2
    assert "<svg" in film.svg()
    assert "<svg" in found.svg()
    read = view("timeline", Question(model, tokenizer, "a little dog", str(folder), measure="surprise"))
    assert read.to_json()["lines"]["nats per token"][-1] == pytest.approx(
        float(run(model, tokenizer, "a little dog").loss), abs=0.01
    )
    with pytest.raises(ConfigError, match="Did you mean 'loss'"):
        timeline(folder, "los")
