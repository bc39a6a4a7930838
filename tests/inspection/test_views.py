"""What the views say, against the same worked out another way."""

import json
import math

import pytest
import torch
from torch import Tensor

from gpt2 import GPT2, Tokenizer
from gpt2.errors import ConfigError
from gpt2.inspection import Run, run
from gpt2.inspection.tokens import quoted, visible


def spread(stream: Tensor) -> Tensor:
    return (stream.var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()


def test_lens_reads_each_layer_with_its_own_norm(looked: Run, model: GPT2) -> None:
    lens = looked.logit_lens(k=3)
    norm, table = model.transformer.ln_f, model.transformer.wte.weight
    for reading, stream in ((0, looked["resid_pre", 0]), (2, looked["resid_post", 1])):
        x = stream[0]
        logits = ((x - x.mean(-1, keepdim=True)) / spread(x) * norm.weight + norm.bias) @ table.T
        p = torch.softmax(logits, dim=-1)
        torch.testing.assert_close(lens.top_probabilities[reading], p.topk(3).values, atol=1e-5, rtol=1e-4)
        assert torch.equal(lens.top_ids[reading], p.topk(3).indices)
        final = torch.log_softmax(looked.logits, dim=-1)
        kl = torch.nn.functional.kl_div(p.log(), final, log_target=True, reduction="none").sum(-1)
        torch.testing.assert_close(lens.kl[reading], kl, atol=1e-4, rtol=1e-3)
        following = int(looked.ids[4])
        assert int(lens.next_rank[reading, 3]) == 1 + int((p[3] > p[3, following]).sum())
    assert float(lens.kl[-1].max()) < 1e-5
    assert lens.check is not None
    assert lens.check.ok


@pytest.mark.parametrize("unit", ["component", "head", "neuron"])
def test_attribution_is_what_the_logit_loses_without_the_part(looked: Run, model: GPT2, unit: str) -> None:
    """Take a part off the final stream, hold the norm's spread, and read the logit again."""
    view = looked.dla(7, against=9, unit=unit, position=5)
    x, norm, table = (
        looked["resid_post", 2][0, 5].double(),
        model.transformer.ln_f,
        model.transformer.wte.weight.double(),
    )
    scale = spread(looked["resid_post", 2][0, 5].double())

    def lead(stream: Tensor) -> float:
        normalized = (stream - stream.mean()) / scale * norm.weight.double() + norm.bias.double()
        return float(normalized @ (table[7] - table[9]))

    parts = {"position embedding": looked["pos_embed"][0, 5]}
    if unit == "head":
        parts["head 1.3"] = looked["result", 1][0, 5, 3]
        parts["attention 1's bias"] = model.transformer.h[1].attn.c_proj.bias
    if unit == "neuron":
        parts["neuron 2.17"] = looked["post", 2][0, 5, 17] * model.transformer.h[2].mlp.c_proj.weight[17]
    if unit == "component":
        parts["MLP 2"] = looked["mlp_out", 2][0, 5] - model.transformer.h[2].mlp.c_proj.bias
    with torch.no_grad():
        expected = {name: lead(x) - lead(x - vector.double()) for name, vector in parts.items()}
    for name in parts:
        assert float(view.values[view.parts.index(name)]) == pytest.approx(expected[name], abs=1e-4)
    assert view.logit == pytest.approx(float(looked.logits[5, 7] - looked.logits[5, 9]), abs=1e-5)
    assert view.total == pytest.approx(view.logit, abs=1e-4)
    assert len(view.parts) == len(set(view.parts)) == len(view.values)


def test_attribution_refuses_what_is_not_one_token(looked: Run) -> None:
    with pytest.raises(ConfigError, match=r"'zebra' is not one token but '.+' \+ '.+'"):
        looked.dla("zebra")
    with pytest.raises(ConfigError, match="unit must be"):
        looked.dla(unit="layer")
    with pytest.raises(ConfigError, match="no position 99"):
        looked.dla(position=99)
    with pytest.raises(ConfigError, match="no token id 448"):
        looked.dla(448)


def test_head_steps_are_the_formula(looked: Run, model: GPT2) -> None:
    steps = looked.head(1, 2, query=4)
    x = looked["normalized", 1, "ln1"][0]
    block = model.transformer.h[1]
    x = x * block.ln_1.weight + block.ln_1.bias
    q, k, v = (x @ block.attn.c_attn.weight + block.attn.c_attn.bias).view(-1, 3, 4, 8).unbind(1)
    scores = q[4, 2] @ k[:5, 2].T / math.sqrt(8)
    torch.testing.assert_close(steps.scores, scores.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(steps.pattern, torch.softmax(scores, -1).detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(steps.z, (torch.softmax(scores, -1) @ v[:5, 2]).detach(), atol=1e-5, rtol=1e-4)
    assert torch.equal(steps.pattern.argmax(), looked.attention(1, 2).pattern[4].argmax())
    with pytest.raises(ConfigError, match="no head 4"):
        looked.head(0, 4)
    with pytest.raises(ConfigError, match="no layer 3"):
        looked.attention(3, 0)


def test_surprise_is_minus_log_p(looked: Run) -> None:
    view = looked.surprise(k=4)
    log_p = torch.log_softmax(looked.logits, dim=-1)
    for i in range(len(looked.ids) - 1):
        chosen = log_p[i, looked.ids[i + 1]]
        assert float(view.nats[i]) == pytest.approx(-float(chosen), abs=1e-5)
        assert int(view.rank[i]) == 1 + int((log_p[i] > chosen).sum())
        assert float(view.entropy[i]) == pytest.approx(
            float(torch.distributions.Categorical(logits=looked.logits[i]).entropy()), abs=1e-4
        )
    assert view.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(looked.logits[:-1], looked.ids[1:])), abs=1e-5
    )


def test_odds_over_the_whole_vocabulary(looked: Run) -> None:
    view = looked.odds(3, temperatures=(0.7, 1.0), k=5)
    for i, t in enumerate((0.7, 1.0)):
        p = torch.softmax(looked.logits[3] / t, -1)
        torch.testing.assert_close(view.probabilities[i], p[view.ids], atol=1e-6, rtol=1e-4)
        assert float(view.others[i]) == pytest.approx(1 - float(p.topk(5).values.sum()), abs=1e-5)
    with pytest.raises(ConfigError, match="above 0"):
        looked.odds(temperatures=(0.0,))


def test_residual_norms(looked: Run) -> None:
    view = looked.residual_norms()
    torch.testing.assert_close(view.stream[3], torch.linalg.vector_norm(looked["resid_mid", 1][0], dim=-1))
    torch.testing.assert_close(view.added[3], torch.linalg.vector_norm(looked["mlp_out", 1][0], dim=-1))
    assert view.check is not None
    assert view.check.ok


def test_every_view_is_json_and_text(looked: Run) -> None:
    views = [
        looked.logit_lens(), looked.dla(), looked.attention(0, 0), looked.attention(), looked.head(0, 0),
        looked.surprise(), looked.residual_norms(), looked.odds(), looked.checks,
    ]  # fmt: skip
    for view in views:
        stored = json.loads(json.dumps(view.to_json(), allow_nan=False))
        assert stored["kind"] == view.kind
        assert stored["summary"] == view.summary
        if view.check is not None:
            assert stored["check"]["ok"] is True
        text = str(view)
        assert view.summary in text
        assert text.count("\n") > 4


def test_tokens_are_shown_as_they_are(model: GPT2, tokenizer: Tokenizer) -> None:
    assert visible(b" dog") == "␣dog"
    assert visible(b"  ") == "␣␣"
    assert visible(b"a\n") == "a⏎"
    assert visible(b"\xe2\x80") == "⟨E2 80⟩"
    assert visible(b"\x00") == "⟨00⟩"
    assert quoted(["a", "␣b"]) == "“a b”"
    assert len(quoted(["word␣"] * 40)) < 70
    tokens = run(model, tokenizer, "Once é\n").tokens
    assert tokens[0] == "<|endoftext|>"
    assert "".join(tokens[1:]).startswith("O")
