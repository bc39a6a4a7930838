"""Decoding: tokens per second of generate(), greedy and sampled, one sequence and many."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks import limits, shapes
from benchmarks.measure import CheckError, Entry, Row, Running, agree_exactly
from benchmarks.peers import huggingface
from benchmarks.shapes import Shape

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROMPT, _NEW = 8, 248
_NEAR = 0.15  # nats; an id chosen at random falls short by one or two


def rows() -> list[Row]:
    """One row per shape and type."""
    return [row(shape, kind) for shape in shapes.SHAPES.values() for kind in _TYPES]


def row(shape: Shape, kind: str) -> Row:
    """One sequence."""
    dtype = _TYPES[kind]
    entries = [
        Entry(f"gpt2-from-scratch {kind}", partial(ours, shape, dtype), True),
        Entry(f"transformers {kind}", partial(transformers, shape, dtype)),
        Entry(f"transformers {kind}, static cache", partial(transformers, shape, dtype, cache="static")),
    ]
    same: Callable = partial(agree_exactly, what="the greedy continuation")
    if kind != "fp32":
        same = partial(near_likeliest, shape=shape)
    return Row(
        f"decoding-{shape.name}-{kind}",
        f"Decoding one sequence, {shape.name}, {kind}",
        "tokens/s",
        entries,
        same,
        partial(weights_read, shape, torch.finfo(dtype).bits // 8),
        settings=f"prompt of {_PROMPT} ids, {_NEW} new ones, greedy",
    )


def weights_read(shape: Shape, bytes_per_weight: float) -> tuple[str, float]:
    """Tokens/s if a step were nothing but reading every weight that multiplies."""
    config = shape.config
    size = int((12 * config.num_layers * config.d_model**2 + config.vocab_size * config.d_model) * bytes_per_weight)
    return f"reading {size / 1e6:.0f} MB of weights", limits.reading(size) / size


def prompt(shape: Shape, batch: int = 1) -> Tensor:
    """(batch, 8) long."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(shape.config.vocab_size, (batch, _PROMPT), generator=generator)


def ours(shape: Shape, dtype: torch.dtype, batch: int = 1) -> Running:
    """`GPT2.generate`."""
    model = shapes.our_model(shape).to(dtype).eval()
    ids = prompt(shape, batch)
    return running(lambda: model.generate(ids, _NEW, temperature=0)[:, _PROMPT:])


def transformers(shape: Shape, dtype: torch.dtype, batch: int = 1, cache: str | None = None) -> Running:
    """`GPT2LMHeadModel.generate`."""
    model = huggingface.model(shape.config, shapes.weights(shape), dtype).eval()
    options = {} if cache is None else {"cache_implementation": cache}
    ids = prompt(shape, batch)
    return running(lambda: huggingface.greedy(model, ids, _NEW, **options))


def running(generate: Callable[[], Tensor]) -> Running:
    """Times a call that gives (batch, new) ids."""
    answer = generate().tolist()

    def measure() -> float:
        start = time.perf_counter()
        new = generate()
        return new.numel() / (time.perf_counter() - start)

    return Running(answer, measure)


def near_likeliest(answers: Mapping[str, list[list[int]]], shape: Shape) -> str:
    """Rounding may turn a close choice and then all that follows, so ids are not compared one by one: each must be,
    by the written-out model in fp32, nearly as likely as the likeliest where it stands.
    """
    model = shapes.our_model(shape, "reference").eval()
    worst = {}
    for name, rows in answers.items():
        new = torch.tensor(rows)
        ids = torch.cat([prompt(shape, len(rows)), new], dim=1)
        with torch.inference_mode():
            logits = model(ids)[:, _PROMPT - 1 : -1]
        short = logits.amax(dim=-1) - logits.gather(-1, new.unsqueeze(-1)).squeeze(-1)
        worst[name] = float(short.amax())
    wrong = {name: value for name, value in worst.items() if value > _NEAR}
    if wrong:
        raise CheckError(f"ids that are less likely than the likeliest, by nats: {wrong}")
    return f"every greedy id is, by the fp32 model, within {max(worst.values()):.2g} nats of the likeliest"
