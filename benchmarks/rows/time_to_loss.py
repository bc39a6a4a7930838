"""Time to a given quality: real text, held-out documents, one tokenizer and one scorer for all, budgets by the clock.

The peer is the field's own recipe at its best: its model, AdamW with warm-up, a cosine to a tenth and clipping, the
learning rate swept, the faster number type of this machine, compiled; compiling does not count. Ours is `gpt2 train`
as it is typed, with its validations, samples and checkpoints inside the budget.
"""

import math
import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import shapes
from benchmarks.measure import Entry, Missing, Row, Running
from benchmarks.peers import nanogpt_style
from benchmarks.shapes import Shape
from gpt2 import GPT2, Tokenizer, train
from gpt2.data import Corpus, Prepared, prepare_corpus, survey
from gpt2.device import examine
from gpt2.evaluation.bits_per_byte import score_documents
from gpt2.training.choices import padded

CONTEXT = 256
RATES = (1e-3, 2e-3, 4e-3)
_WARM_UP = 0.02


@dataclass(frozen=True)
class Text:
    """What is trained on and what is judged on."""

    train: Path
    valid: Path
    vocab_size: int

    @classmethod
    def sample(cls, vocab_size: int) -> "Text":
        """TinyStories in the folder that `$GPT2_DATA` names, else `data`."""
        folder = Path(os.environ.get("GPT2_DATA", "data"))
        text = cls(folder / "TinyStories-train.txt", folder / "TinyStories-valid.txt", vocab_size)
        if not (text.train.is_file() and text.valid.is_file()):
            raise Missing("GPT2_DATA names a folder with TinyStories-train.txt and -valid.txt")
        return text

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that `gpt2 train` learns from this text."""
        return Tokenizer.train(self._corpus.training_texts(100_000_000), self.vocab_size)

    @cached_property
    def prepared(self) -> Prepared:
        """Token ids of both files."""
        return prepare_corpus(self._corpus, self.tokenizer, progress=False)

    @cached_property
    def _corpus(self) -> Corpus:
        return survey([self.train], valid=[self.valid], progress=False)

    def bits_per_byte(self, model: GPT2) -> float:
        """Of every held-out document, in float32."""
        valid = self.prepared.valid
        documents = [valid.document(number) for number in range(valid.num_documents)]
        model.compute_dtype = None
        return score_documents(model, documents, valid.document_bytes, self.tokenizer.eos_token_id).bits_per_byte


def rows() -> list[Row]:
    """Five minutes at the small shape, half an hour at the default one."""
    return [row(shapes.SHAPES["4x128"], 300.0, 4), row(shapes.SHAPES["6x512"], 1800.0, 3)]


def row(shape: Shape, seconds: float, share: int) -> Row:
    """The peer with each rate in the whole budget; ours in one part of `share`, and in the whole."""
    minutes = seconds / 60
    entries = [Entry(f"gpt2 train, {minutes / share:g} minutes", partial(ours, shape, seconds / share), True)]
    entries += [
        Entry(f"nanoGPT style, AdamW {rate:g}, {minutes:g} minutes", partial(adamw, shape, seconds, rate))
        for rate in RATES
    ]
    entries.append(Entry(f"gpt2 train, {minutes:g} minutes", partial(ours, shape, seconds), True))
    return Row(
        f"time-to-loss-{shape.name}", f"Quality after a time of training, {shape.name}", "bits per byte", entries,
        lambda answers: "one tokenizer, the same held-out documents, one scorer in float32", more_is_better=False,
        settings=f"9.4 MB of TinyStories, vocabulary {shape.config.vocab_size:,}, context {CONTEXT}; the peer takes "
        f"{shape.batch} x {CONTEXT} tokens a step, the best of {len(RATES)} learning rates counts",
    )  # fmt: skip


def ours(shape: Shape, seconds: float, text: Text | None = None) -> Running:
    """`gpt2 train` with a budget."""
    text = text or Text.sample(shape.config.vocab_size)
    config = shape.config

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                [text.train], valid=text.valid, out=Path(folder) / "run", minutes=seconds / 60, progress=False,
                d_model=config.d_model, num_layers=config.num_layers, num_heads=config.num_heads,
                context_length=CONTEXT, vocab_size=text.vocab_size, threads=torch.get_num_threads(),
            )  # fmt: skip
        assert run is not None
        return text.bits_per_byte(run.model)

    return Running(None, measure)


def adamw(shape: Shape, seconds: float, rate: float, text: Text | None = None) -> Running:
    """The peer's loop: random windows of the ids end to end."""
    text = text or Text.sample(shape.config.vocab_size)
    source = text.prepared.train
    ids = torch.from_numpy(np.concatenate([source.document(n) for n in range(source.num_documents)]).astype(np.int64))
    config = replace(shape.config, context_length=CONTEXT, vocab_size=padded(text.vocab_size))
    machine = examine("cpu", threads=torch.get_num_threads())

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(ids) - CONTEXT - 1, (shape.batch, 1), generator=generator)
        windows = ids[starts + torch.arange(CONTEXT + 1)]
        return windows[:, :-1], windows[:, 1:]

    def measure() -> float:
        torch.manual_seed(0)
        model, generator = nanogpt_style.NanoGPT(config), torch.Generator().manual_seed(0)
        optimizer, forward = nanogpt_style.adamw(model, rate), torch.compile(model)

        def backward() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
                loss = forward(*batch(generator))
            loss.backward()

        backward()  # compiles
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        while (done := (time.perf_counter() - start) / seconds) < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(done / _WARM_UP, 0.55 + 0.45 * math.cos(math.pi * done))
            backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.zero_grad(set_to_none=True)
        result = GPT2(config)
        result.load_state_dict(model.weights())
        return text.bits_per_byte(result)

    return Running(None, measure)
