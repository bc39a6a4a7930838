"""Training throughput: forward, backward and AdamW on one batch, tokens per second."""

import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks import limits, shapes
from benchmarks.measure import Entry, Row, Running, agree_on_number
from benchmarks.peers import huggingface, litgpt, nanogpt_style
from benchmarks.shapes import Shape
from gpt2.data.loader import Batch
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.optimizers import build_optimizer

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rows() -> list[Row]:
    """One row per shape."""
    return [row(shape) for shape in shapes.SHAPES.values()]


def row(shape: Shape) -> Row:
    """Each peer in every configuration that may be its best."""
    entries = []
    for kind, dtype in _TYPES.items():
        entries += [
            Entry(f"gpt2-from-scratch {kind}", partial(_in, dtype, ours, shape), True),
            Entry(f"gpt2-from-scratch {kind}, Muon", partial(_in, dtype, ours, shape, optimizer="muon"), True),
            Entry(f"nanoGPT style {kind}, eager", partial(_in, dtype, nanogpt, shape, compiled=False)),
            Entry(f"nanoGPT style {kind}, compiled", partial(_in, dtype, nanogpt, shape, compiled=True)),
            Entry(f"transformers {kind}, eager", partial(_in, dtype, transformers, shape)),
            Entry(f"litgpt {kind}, eager", partial(_in, dtype, lit, shape)),
        ]
    return Row(
        f"training-{shape.name}",
        f"Training, {shape.name}, {shape.tokens:,} tokens per step",
        "tokens/s",
        entries,
        partial(agree_on_number, tolerance=2e-2, what="the loss of the first batch, one set of weights,"),
        partial(limits.training_products, shape),
        settings=f"forward, backward and AdamW; batch {shape.batch} x {shape.time}, vocabulary "
        f"{shape.config.vocab_size:,}; batches without padding",
    )


def _in(dtype: torch.dtype, start: Callable[..., Running], shape: Shape, **settings: object) -> Running:
    limits.require(dtype)
    return start(shape, dtype, **settings)


def ours(shape: Shape, dtype: torch.dtype, optimizer: str = "adamw") -> Running:
    """The package's own parts, as the trainer puts them together."""
    model = shapes.our_model(shape)
    model.compute_dtype = None if dtype == torch.float32 else dtype
    loss = LanguageModelLoss(model)
    own = {"dtype": dtype} if optimizer == "muon" else {}  # as the trainer has it
    update = build_optimizer(model, optimizer, 1e-3, 0.1, **own)
    ids, targets = shapes.batch(shape)
    example = Batch(ids.view(1, -1), targets.view(1, -1), [shape.time] * shape.batch)

    def step() -> float:
        total, tokens = loss(example)
        (total / tokens).backward()
        update.step()
        model.zero_grad(set_to_none=True)
        return float(total.detach()) / tokens

    return _running(shape, step)


def nanogpt(shape: Shape, dtype: torch.dtype, compiled: bool) -> Running:
    """The field's hand-written model."""
    model = nanogpt_style.NanoGPT(shape.config).load(shapes.weights(shape))
    return _running(shape, _autocast_step(shape, torch.compile(model) if compiled else model, model, dtype))


def transformers(shape: Shape, dtype: torch.dtype) -> Running:
    """GPT2LMHeadModel, its loss included."""
    model = huggingface.model(shape.config, shapes.weights(shape))
    return _running(shape, _autocast_step(shape, huggingface.Loss(model), model, dtype))


def lit(shape: Shape, dtype: torch.dtype) -> Running:
    """litgpt's GPT in GPT-2's shape."""
    model = litgpt.LitGPT(shape.config)
    running = _running(shape, _autocast_step(shape, model, model, dtype))
    return Running(None, running.measure)  # another function: its loss says nothing


def _autocast_step(shape: Shape, forward: Callable, model: torch.nn.Module, dtype: torch.dtype) -> Callable[[], float]:
    optimizer = nanogpt_style.adamw(model)
    ids, targets = shapes.batch(shape)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = forward(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _running(shape: Shape, step: Callable[[], float]) -> Running:
    answer = step()  # compiles
    step()

    def measure() -> float:
        start = time.perf_counter()
        step()
        return shape.tokens / (time.perf_counter() - start)

    return Running(answer, measure)
