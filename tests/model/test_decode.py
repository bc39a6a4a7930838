"""The compiled decoding step: the logits of the model's own forward pass, whatever the types, rows and padding."""

import copy
from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, GPT2Config, native
from gpt2.errors import ConfigError
from gpt2.model.ops import decode
from gpt2.model.ops.int8 import MATRICES, quantize, rounded
from gpt2.model.ops.step import NativeStep
from tests.conftest import randomize

CONFIG = GPT2Config(vocab_size=101, context_length=40, d_model=64, num_layers=2, num_heads=2)


@pytest.fixture
def model() -> GPT2:
    if native.library()[0] is None:
        pytest.skip(f"no compiled step here: {native.library()[1]}")
    return randomize(GPT2(CONFIG)).eval()


def both_roads(model: GPT2, rows: int, padding: list[int] | None = None, threads: int = 1) -> float:
    """Largest difference of the logits over twenty steps after a prompt of six."""
    ids = torch.randint(CONFIG.vocab_size, (rows, 26), generator=torch.Generator().manual_seed(0))
    left = None if padding is None else torch.tensor(padding)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            caches = [model.new_cache(rows, left) for _ in range(2)]
            for cache in caches:
                model(ids[:, :6], cache=cache)
            fast, plain = model.decoder(caches[0]), decode.plain_step(model, caches[1])
            assert isinstance(fast, NativeStep)
            steps, left = [], list(range(rows))
            for number, column in enumerate(ids[:, 6:].T.tolist()):
                if number == 10:
                    left = left[: max(1, rows // 2)]  # the others have come to their end
                newest = [column[row] for row in left]
                steps.append((fast(newest, left).clone(), plain(newest, left)))
                assert steps[-1][0].shape == (len(left), model.config.vocab_size)
            return max(float((ours - theirs).abs().max()) for ours, theirs in steps)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8, 15])
def test_equals_the_forward_pass(model: GPT2, rows: int) -> None:
    assert both_roads(model, rows) < 1e-4


def test_padded_rows_and_several_threads(model: GPT2) -> None:
    assert both_roads(model, 5, padding=[0, 3, 5, 1, 0]) < 1e-4
    assert both_roads(model, 5, padding=[0, 3, 5, 1, 0], threads=3) < 1e-4


@pytest.mark.parametrize(("d_model", "num_heads", "vocab_size"), [(96, 6, 101), (32, 1, 128), (128, 2, 257)])
def test_other_shapes(model: GPT2, d_model: int, num_heads: int, vocab_size: int) -> None:
    config = GPT2Config(
        vocab_size=vocab_size, context_length=40, d_model=d_model, num_layers=1, num_heads=num_heads
    )  # fmt: skip
    assert both_roads(randomize(GPT2(config)).eval(), 3) < 1e-4


def test_bfloat16_is_as_exact_as_the_forward_pass(model: GPT2) -> None:
    """Against fp32 with the same rounded weights: the compiled step sums in fp32, so it is no worse."""
    narrow = copy.deepcopy(model).bfloat16()
    wide = copy.deepcopy(narrow).float()
    ids = torch.arange(2, 14).unsqueeze(0)
    with torch.inference_mode():
        cache = narrow.new_cache(1)
        narrow(ids[:, :6], cache=cache)
        step = narrow.decoder(cache)
        for token in ids[0, 6:].tolist():
            logits = step([token], [0])
        exact = wide(ids)[:, -1]
        theirs = narrow(ids)[:, -1]
    assert float((logits - exact).abs().max()) <= float((theirs - exact).abs().max())


def test_int8_decodes_what_the_rounded_model_computes(model: GPT2) -> None:
    small = rounded(model)
    assert both_roads(small, 3) < 1e-4
    assert small.decoder(small.new_cache(1)).weights.dtype == torch.int8
    for name, parameter in small.named_parameters():
        if name.endswith(MATRICES):
            new, original = parameter.detach(), model.get_parameter(name).detach()
            values, scale = quantize(new)
            assert torch.equal(values * scale, new), "what 8 bits can hold stays as it is"
            error = float((new - original).abs().max())
            assert 0 < error <= float(original.abs().max()) / 127 / 2 * 1.001


def test_greedy_ids_equal_those_without(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    context = torch.tensor([[1, 2, 3], [4, 5, 6]])
    fast = model.generate(context, 60, temperature=0)  # slides once
    monkeypatch.setenv("GPT2_NATIVE", "0")
    native._found.cache_clear()
    try:
        assert decode.why_plain(model) == "GPT2_NATIVE=0"
        assert torch.equal(fast, model.generate(context, 60, temperature=0))
    finally:
        monkeypatch.undo()
        native._found.cache_clear()


@pytest.mark.parametrize("change", ["in place", "through .data", "another type"])
def test_changed_weights_are_noticed(model: GPT2, change: str) -> None:
    context = torch.tensor([[1, 2, 3]])
    before = model.generate(context, 35, temperature=0)
    weight = model.transformer.h[1].mlp.c_fc.weight  # pyright: ignore
    if change == "in place":
        with torch.no_grad():
            weight.mul_(-1.0)
    elif change == "through .data":
        weight.data.mul_(-1.0)
    else:
        model.bfloat16()
        assert model.decoder(model.new_cache(1)).weights.dtype == torch.bfloat16
        return
    assert not torch.equal(before, model.generate(context, 35, temperature=0))
    assert both_roads(model, 1) < 1e-4


def test_what_it_cannot_run_takes_the_forward_pass(tiny_model: GPT2, model: GPT2) -> None:
    assert "heads of 8 dimensions" in decode.why_plain(tiny_model)
    assert not isinstance(tiny_model.decoder(tiny_model.new_cache(1)), NativeStep)
    assert "reference" in decode.why_plain(GPT2(CONFIG, kernels="reference"))
    assert "float64" in decode.why_plain(copy.deepcopy(model).double())


def test_a_full_cache_refuses(model: GPT2) -> None:
    cache = model.new_cache(1)
    step = model.decoder(cache)
    for token in range(CONFIG.context_length):
        step([token], [0])
    with pytest.raises(ConfigError, match="1 more do not fit"):
        step([0], [0])


def test_without_a_working_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_NATIVE", str(tmp_path / "native"))
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\ntest \"$1\" = --version || { echo 'error: it is broken' >&2; exit 1; }\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    native._found.cache_clear()
    try:
        library, reason = native.library()
        assert library is None
        assert "it is broken" in reason
        assert list((tmp_path / "native").iterdir()) == []
    finally:
        monkeypatch.undo()
        native._found.cache_clear()
