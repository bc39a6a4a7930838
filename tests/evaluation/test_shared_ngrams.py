"""Longest shared passages against looking at every place, and verdicts on texts whose origin is known."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data import prepare
from gpt2.evaluation import shared_ngrams
from gpt2.evaluation.memorization import memorization
from gpt2.evaluation.shared_ngrams import SHORTEST, longest_shared
from gpt2.tokenizer import Tokenizer


def brute(query: list[int], large: list[int]) -> int:
    text = " " + " ".join(map(str, large)) + " "
    best = 0
    for start in range(len(query)):
        while start + best < len(query) and f" {' '.join(map(str, query[start : start + best + 1]))} " in text:
            best += 1
    return best if best >= SHORTEST else 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(40, 700))
def test_equals_looking_everywhere(seed: int, letters: int, chunk: int) -> None:
    draw = np.random.default_rng(seed)
    large = draw.integers(0, letters, 1500).astype(np.uint16)
    queries = [draw.integers(0, letters, n) for n in (0, 3, 8, 60)]
    queries += [large[700:790].astype(np.int64), np.concatenate([large[-40:], large[:30]]).astype(np.int64)]
    with pytest.MonkeyPatch.context() as patch:  # passages across the borders of chunks
        patch.setattr(shared_ngrams, "_CHUNK", chunk)
        lengths, starts = longest_shared(queries, large, letters)
    assert lengths.tolist() == [brute(query.tolist(), large.tolist()) for query in queries]
    whole = f" {' '.join(map(str, large))} "
    for query, length, start in zip(queries, lengths, starts, strict=True):
        assert f" {' '.join(map(str, query[start : start + length]))} ".replace("  ", " ") in whole


def test_no_queries_and_no_text() -> None:
    assert longest_shared([np.empty(0, np.int64)], np.arange(50), 50)[0].tolist() == [0]
    assert longest_shared([np.arange(20)], np.arange(4), 50)[0].tolist() == [0]
    assert longest_shared([np.arange(20)], np.arange(12), 50)[0].tolist() == [12]


def test_recited_text_is_told_from_written_text(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefgh"), 5)) for _ in range(300)]

    def story() -> str:
        return " ".join(draw.choice(words, 80))

    old = [story() for _ in range(60)]
    fresh = [story() for _ in range(100)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(old))
    (tmp_path / "b.txt").write_text("\n<|endoftext|>\n".join(fresh))
    tokenizer = Tokenizer.train(old, 500)
    training = prepare(
        [tmp_path / "a.txt"], tokenizer, valid=[tmp_path / "b.txt"], cache=tmp_path, progress=False
    ).train
    held_out = [story() for _ in range(50)]
    assert memorization(fresh, held_out, training, tokenizer).verdict == "not memorised"
    copied = memorization([*fresh[:50], *old[:50]], held_out, training, tokenizer)
    assert copied.verdict == "memorised"
    assert copied.recited == 0.5
    assert any(copied.passage in text for text in old)
    assert len(copied.passage.split()) > 70
    some = memorization([*fresh[:90], *(" ".join([new, text]) for new, text in zip(fresh, old[:10], strict=False))],
                        held_out, training, tokenizer)  # fmt: skip
    assert (some.verdict, some.recited) == ("recites now and then", 0.1)
