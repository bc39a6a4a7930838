"""The project's one quality figure, against an implementation that shares nothing with it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2 import GPT2
from gpt2.errors import DataError
from gpt2.evaluation.bits_per_byte import score_documents


def independent_nats(model: GPT2LMHeadModel, tokens: list[int], eot: int, context: int) -> float:
    """DESIGN's definition word for word, over transformers, one window at a time."""
    ids = [eot, *tokens, eot]
    stride = max(1, context // 2)
    scored: set[int] = set()
    total, k = 0.0, 0
    while len(scored) < len(ids) - 1:
        window = ids[k * stride : k * stride + context]
        targets = ids[k * stride + 1 : k * stride + context + 1]
        with torch.no_grad():
            log_p = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        for place, target in enumerate(targets):
            at = k * stride + 1 + place
            if at not in scored:
                scored.add(at)
                total -= log_p[place, target].item()
        k += 1
    return total


def test_equals_an_independent_implementation_document_by_document(tiny_model: GPT2, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lengths = [0, 1, 5, 22, 23, 24, 25, 35, 36, 47, 48, 49, 100, 3, 3]
    documents = [draw.integers(1, 97, size=n).tolist() for n in lengths]
    num_bytes = draw.integers(1, 300, size=len(lengths))
    tiny_model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    score = score_documents(tiny_model, [np.array([0, *d]) for d in documents], num_bytes, 0)
    expected = np.array([independent_nats(theirs, d, 0, 24) for d in documents])
    np.testing.assert_allclose(score.nats, expected, rtol=1e-5)
    assert score.tokens.tolist() == [n + 1 for n in lengths]
    assert score.loss == pytest.approx(expected.sum() / sum(n + 1 for n in lengths), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    assert score.bits_per_byte == pytest.approx(expected.sum() / math.log(2) / num_bytes.sum(), rel=1e-5)


def test_order_and_company_do_not_matter(tiny_model: GPT2) -> None:
    documents = [np.array([0, *range(1, n)]) for n in (60, 5, 17, 90, 2)]
    together = score_documents(tiny_model, documents, [1] * 5, 0)
    for i, document in enumerate(documents):
        assert score_documents(tiny_model, [document], [1], 0).nats[0] == pytest.approx(together.nats[i], rel=1e-6)


def test_a_uniform_model_needs_log2_v_bits_a_token(tiny_model: GPT2) -> None:
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.zero_()
    score = score_documents(tiny_model, [np.array([0, 1, 2])], [10], 0)
    assert score.bits_per_byte == pytest.approx(3 * math.log2(97) / 10, rel=1e-6)


def test_training_mode_is_kept_and_nothing_to_score_is_an_error(tiny_model: GPT2) -> None:
    tiny_model.train()
    score_documents(tiny_model, [np.array([0, 1])], [1], 0)
    assert tiny_model.training
    with pytest.raises(DataError, match="no documents"):
        score_documents(tiny_model, [], [], 0)


def test_threads_change_no_bit(tiny_model: GPT2) -> None:
    draw = np.random.default_rng(1)
    documents = [np.array([0, *draw.integers(1, 97, size=n)]) for n in draw.integers(1, 200, size=60)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(score_documents(tiny_model, documents, [1] * 60, 0).nats)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert sum(map(len, documents)) > 2 * 2048, "several batches"
    assert (found[0] == found[1]).all()
