"""The ONNX graph in onnxruntime: whole, with a past, and as a batch of prompts padded on the left."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from gpt2 import GPT2, GPT2Config
from gpt2.errors import ConfigError
from gpt2.interop.onnx import write_onnx
from gpt2.interop.parity import log_probabilities
from tests.conftest import randomize

ROWS = [[5, 6, 7, 300, 599, 0, 42], [9, 8, 639]]


@pytest.fixture(scope="module")
def sessions(model: GPT2, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, onnxruntime.InferenceSession]:
    folder = tmp_path_factory.mktemp("onnx")
    for quantised in (False, True):
        write_onnx(model, folder / f"{quantised}.onnx", quantised)
    return {q: onnxruntime.InferenceSession(str(folder / f"{q}.onnx")) for q in (False, True)}


def run(
    session: onnxruntime.InferenceSession, ids: np.ndarray, mask: np.ndarray, past: list[np.ndarray] | None = None
) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Logits and present; `mask` covers past and new, positions count what is real."""
    empty = [np.zeros((len(ids), 4, 0, 16), np.float32)] * 4
    names = [item.name for item in session.get_inputs()][3:]
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    logits, *present = session.run(None, {**feeds, **dict(zip(names, past or empty, strict=True))})
    return torch.from_numpy(logits), present


def test_names_and_shapes_are_those_of_transformers_js(
    sessions: dict[bool, onnxruntime.InferenceSession],
) -> None:
    for session in sessions.values():
        past = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
        assert [item.name for item in session.get_inputs()] == ["input_ids", "attention_mask", "position_ids", *past]
        present = [name.replace("past_key_values", "present") for name in past]
        assert [item.name for item in session.get_outputs()] == ["logits", *present]
        assert session.get_inputs()[3].shape == ["batch_size", 4, "past_sequence_length", 16]


def test_logits_whole_and_token_by_token(model: GPT2, sessions: dict[bool, onnxruntime.InferenceSession]) -> None:
    ids = np.array(ROWS[:1])
    with torch.no_grad():
        ours = model(torch.from_numpy(ids))
    whole, _ = run(sessions[False], ids, np.ones_like(ids))
    torch.testing.assert_close(whole, ours, atol=1e-5, rtol=0)
    parts, past = [], None
    for start, end in ((0, 3), (3, 4), (4, 7)):
        logits, past = run(sessions[False], ids[:, start:end], np.ones((1, end), np.int64), past)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), ours, atol=1e-5, rtol=0)


def test_padding_on_the_left_changes_nothing(model: GPT2, sessions: dict[bool, onnxruntime.InferenceSession]) -> None:
    width = max(map(len, ROWS))
    ids = np.array([[0] * (width - len(row)) + row for row in ROWS])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in ROWS])
    logits, past = run(sessions[False], ids, mask)
    again, _ = run(sessions[False], np.array([[11], [12]]), np.concatenate([mask, np.ones((2, 1), np.int64)], 1), past)
    for number, (row, new) in enumerate(zip(ROWS, (11, 12), strict=True)):
        with torch.no_grad():
            ours = model(torch.tensor([[*row, new]]))[0]
        torch.testing.assert_close(logits[number, -len(row) :], ours[:-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(again[number], ours[-1:], atol=1e-5, rtol=0)
    assert torch.isfinite(logits).all()


def test_eight_bits_are_close_and_small(
    model: GPT2, sessions: dict[bool, onnxruntime.InferenceSession], tmp_path: Path
) -> None:
    ids = np.array(ROWS[:1])
    with torch.no_grad():
        p = log_probabilities(model(torch.from_numpy(ids)))
    q = log_probabilities(run(sessions[True], ids, np.ones_like(ids))[0])
    assert 1e-9 < (p.exp() * (p - q)).sum(-1).mean() < 1e-2
    for quantised in (False, True):
        write_onnx(model, tmp_path / f"{quantised}.onnx", quantised)
    stored = {t.name: t.data_type for t in onnx.load(tmp_path / "True.onnx").graph.initializer}
    assert [name for name in stored if "wte" in name] == ["wte.weight.q8", "wte.weight.scales"]  # once, for both ends
    assert (tmp_path / "True.onnx").stat().st_size < 0.4 * (tmp_path / "False.onnx").stat().st_size


def test_a_width_that_blocks_do_not_divide_is_refused(tmp_path: Path) -> None:
    narrow = randomize(GPT2(GPT2Config(vocab_size=64, context_length=8, d_model=24, num_layers=1, num_heads=2)))
    with pytest.raises(ConfigError, match="8-bit ONNX needs d_model to be a multiple of 32, this model has 24"):
        write_onnx(narrow, tmp_path / "n.onnx", quantised=True)
    write_onnx(narrow, tmp_path / "n.onnx", quantised=False)


def test_too_large_for_one_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with torch.device("meta"):
        large = GPT2(GPT2Config(vocab_size=50_257, context_length=1024, d_model=1280, num_layers=36, num_heads=20))
    with pytest.raises(ConfigError, match=r"at most 2 GiB, this model has 774,030,080 parameters"):
        write_onnx(large, tmp_path / "large.onnx", quantised=False)
    assert not list(tmp_path.iterdir())
