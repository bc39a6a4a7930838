"""Every value of `gpt2.inspection`'s cache against TransformerLens', for the same weights; run by `make interop`."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from gpt2 import GPT2, Tokenizer
from gpt2.data import iter_documents
from gpt2.inspection import ablation_grid, all_names, run
from tests.interop.heavy.conftest import heavy, prepared

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def theirs(trained: tuple[GPT2, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TransformerLens found, and what it was asked."""
    folder, job = tmp_path_factory.mktemp("lens"), asked(*trained)
    (folder / "job.json").write_text(json.dumps(job))
    heavy("transformer_lens_cache.py", prepared("GPT2_INTEROP_MODEL"), folder / "job.json", folder / "out.npz")
    with np.load(folder / "out.npz", allow_pickle=False) as stored:
        found: dict[str, Any] = dict(stored)
    return {**found, "job": job}


def asked(model: GPT2, tokenizer: Tokenizer) -> dict[str, Any]:
    """A text of 64 tokens, and documents of one length: TransformerLens has no padding at the end to ignore."""
    stories = [story for _, story in zip(range(200), iter_documents(), strict=False)]
    rows = [[tokenizer.eos_token_id, *tokenizer.encode(story)] for story in stories]
    length = 129
    return {
        "ids": rows[0][:64],
        "documents": [row[:length] for row in rows if len(row) >= length][:32],
        "names": all_names(model.config.num_layers),
        "threads": torch.get_num_threads(),
    }


def test_every_cached_value_is_the_same(trained: tuple[GPT2, Tokenizer], theirs: dict[str, Any]) -> None:
    looked, worst = run(*trained, theirs["job"]["ids"]), 0.0
    for name in looked.cache:
        ours, other = looked[name].numpy(), theirs[name]
        other = other.reshape(ours.shape)  # it keeps the heads of z side by side
        seen = np.isfinite(ours)  # scores of the future: ours minus infinity, theirs a very small number
        if not seen.all():
            assert name.endswith("hook_attn_scores")
            assert float(other[~seen].max()) < -1e4
        gap = float(np.abs(ours[seen] - other[seen]).max())
        assert gap < 1e-4, f"{name}: {gap}"
        worst = max(worst, gap)
    assert len(looked.cache) == 17 * trained[0].config.num_layers + 4
    print(f"\nTransformerLens: {len(looked.cache)} cached values equal, largest difference {worst:.1e}", end="")


def test_ablations_are_the_same(trained: tuple[GPT2, Tokenizer], theirs: dict[str, Any]) -> None:
    grid = ablation_grid(*trained, theirs["job"]["documents"], how="zero")
    np.testing.assert_allclose(grid.change[:, :-1].numpy(), theirs["ablation"], atol=1e-4)
