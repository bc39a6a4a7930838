"""Looking inside: the same jobs by `gpt2.inspection` and by TransformerLens, on the shipped model."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Entry, Row, Running, agree_on_numbers
from benchmarks.peers.transformer_lens import TransformerLens
from gpt2 import GPT2, Tokenizer, load
from gpt2.data import iter_documents
from gpt2.inspection import ablation_grid, run

_TOKENS, _DOCUMENTS, _LENGTH = 64, 32, 128
_ROUNDS = {"run": 20, "lens": 10, "attribution": 20, "ablation": 1}
_TITLES = {
    "run": "every inner value kept",
    "lens": "the logit lens",
    "attribution": "a logit, by head and MLP",
    "ablation": "the loss without each head",
}
_SETTINGS = {
    "run": f"one text of {_TOKENS} tokens",
    "lens": f"run, and at each of {_TOKENS} positions the five likeliest tokens after each layer, and the rank and "
    "chance of the token that follows",
    "attribution": f"run on {_TOKENS} tokens, and the difference of two logits at the last one",
    "ablation": f"{_DOCUMENTS} stories of {_LENGTH} tokens; ours also takes out the MLPs, and gives intervals",
}


def rows() -> list[Row]:
    """The jobs that both can do."""
    return [row(job) for job in _TITLES]


def row(job: str) -> Row:
    """One job."""
    return Row(
        f"inspection-{job}", f"Looking inside: {_TITLES[job]}", "ms",
        [Entry("gpt2-from-scratch", partial(_ours, job), True), Entry("TransformerLens", partial(_theirs, job))],
        partial(agree_on_numbers, tolerance=1e-4, what="every number"), more_is_better=False,
        settings=f"{_SETTINGS[job]}; the model `demo`, fp32",
    )  # fmt: skip


def _model() -> tuple[GPT2, Tokenizer]:
    model, tokenizer = load("demo")
    return model.float(), tokenizer


def _inputs(tokenizer: Tokenizer) -> dict[str, Any]:
    """Documents are of one length: TransformerLens has no padding at the end to ignore."""
    stories = [[tokenizer.eos_token_id, *tokenizer.encode(story)] for story in iter_documents()]
    long = [row[: _LENGTH + 1] for row in stories if len(row) > _LENGTH]
    she, he = tokenizer.encode(" she"), tokenizer.encode(" he")
    return {"ids": stories[0][:_TOKENS], "documents": long[:_DOCUMENTS], "target": she[0], "against": he[0]}


def _ours(job: str) -> Running:
    model, tokenizer = _model()
    inputs = _inputs(tokenizer)
    ids, target, against = inputs["ids"], inputs["target"], inputs["against"]
    jobs: dict[str, Callable[[], Any]] = {
        "run": lambda: run(model, tokenizer, ids),
        "lens": lambda: run(model, tokenizer, ids).logit_lens(),
        "attribution": lambda: run(model, tokenizer, ids).dla(target, against, unit="head"),
        "ablation": lambda: ablation_grid(model, tokenizer, inputs["documents"], how="zero"),
    }

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(_ROUNDS[job]):
            jobs[job]()
        return 1000 * (time.perf_counter() - began) / _ROUNDS[job]

    return Running(_numbers(job, jobs[job]()).flatten().tolist(), measure)


def _numbers(job: str, found: Any) -> Tensor:
    """What is compared: the same of every tool."""
    if job == "run":
        return found.logits[-1]
    if job == "lens":
        return torch.cat([found.top_probabilities.flatten(), found.next_log_probability.flatten()])
    if job == "attribution":
        named = dict(zip(found.parts, found.values, strict=True))
        heads = [value for name, value in named.items() if name.startswith("head ")]
        mlps = [value + named[f"{name}'s bias"] for name, value in named.items()
                if name.startswith("MLP ") and not name.endswith("bias")]  # fmt: skip
        return torch.stack([*heads, *mlps])
    return found.change[:, :-1]


def _theirs(job: str) -> Running:
    model, tokenizer = _model()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder, model_max_length=model.config.context_length)
        peer = TransformerLens(Path(folder), _inputs(tokenizer))
        return Running(peer.answer(job), lambda: 1000 * peer.seconds(job, _ROUNDS[job]), peer.close)
