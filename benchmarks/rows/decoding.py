"""Decoding: tokens per second of generate(), greedy and sampled, one sequence and many."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks import limits, shapes
from benchmarks.measure import CheckError, Entry, Row, Running, agree_exactly
from benchmarks.peers import huggingface, llama_cpp
from benchmarks.shapes import Shape
from gpt2.model.ops.int8 import rounded

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROMPT, _NEW = 8, 248
_NEAR = 0.15  # nats; an id chosen at random falls short by one or two


def rows() -> list[Row]:
    """One sequence in each type, one sampled, sixteen at once."""
    singles = [row(shape, kind) for shape in shapes.SHAPES.values() for kind in ("fp32", "bf16", "int8")]
    return [*singles, *(sampled(shape) for shape in shapes.SHAPES.values()), many(shapes.SHAPES["6x512"])]


def row(shape: Shape, kind: str) -> Row:
    """One sequence."""
    dtype = _TYPES.get(kind, torch.float32)
    entries = [
        Entry(f"gpt2-from-scratch {kind}", partial(ours, shape, dtype, weights=kind), True),
        Entry(f"llama.cpp {llama_cpp.TYPES[kind]}", partial(llama, shape, kind, torch.get_num_threads())),
        Entry(f"llama.cpp {llama_cpp.TYPES[kind]}, one thread", partial(llama, shape, kind, 1)),
    ]
    for peer in (kind,) if kind in _TYPES else _TYPES:
        entries.append(Entry(f"transformers {peer}", partial(transformers, shape, _TYPES[peer])))
    if kind in _TYPES:
        static = partial(transformers, shape, dtype, cache="static")
        entries.append(Entry(f"transformers {kind}, static cache", static))
    return Row(
        f"decoding-{shape.name}-{kind}",
        f"Decoding one sequence, {shape.name}, {kind}",
        "tokens/s",
        entries,
        partial(same_ids, shape=shape, exact=kind == "fp32"),
        partial(weights_read, shape, {"fp32": 4, "bf16": 2, "int8": 1}[kind]),
        settings=f"prompt of {_PROMPT} ids, {_NEW} new ones, greedy; transformers has no 8-bit weights on CPUs",
    )


def sampled(shape: Shape) -> Row:
    """What sampling costs: the same model greedy and sampled."""
    options = {
        "greedy": {"temperature": 0.0}, "temperature 0.8": {"temperature": 0.8},
        "temperature 0.8, top-k 50": {"temperature": 0.8, "top_k": 50},
        "temperature 0.8, top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    }  # fmt: skip
    entries = [
        Entry(f"gpt2-from-scratch {name}", partial(ours, shape, torch.float32, **chosen), True)
        for name, chosen in options.items()
    ]
    entries.append(Entry("transformers temperature 0.8, top-k 50", partial(transformers_sampled, shape)))
    return Row(
        f"sampling-{shape.name}",
        f"Sampling, {shape.name}, fp32",
        "tokens/s",
        entries,
        lambda answers: "the draws, by tests, against the formulas: random ids differ between tools",
        settings=f"one sequence, prompt of {_PROMPT} ids, {_NEW} new ones",
    )  # fmt: skip


def many(shape: Shape, batch: int = 16) -> Row:
    """Sixteen sequences at once, tokens of all together."""
    entries = [
        Entry(f"gpt2-from-scratch {kind}, {count} at once", partial(ours, shape, _TYPES[kind], count), True)
        for kind in _TYPES
        for count in (1, batch)
    ]
    entries += [
        Entry(f"transformers {kind}, {batch} at once", partial(transformers, shape, dtype, batch))
        for kind, dtype in _TYPES.items()
    ]
    return Row(
        f"decoding-{shape.name}-batch",
        f"Decoding {batch} sequences at once, {shape.name}",
        "tokens/s",
        entries,
        partial(near_likeliest, shape=shape),
        settings=f"prompts of {_PROMPT} ids, {_NEW} new ones each, greedy",
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


def ours(shape: Shape, dtype: torch.dtype, batch: int = 1, weights: str = "", **options: float) -> Running:
    """`GPT2.generate`."""
    model = shapes.our_model(shape).to(dtype).eval()
    model = rounded(model) if weights == "int8" else model
    ids = prompt(shape, batch)
    options = options or {"temperature": 0.0}
    return running(lambda: model.generate(ids, _NEW, **options)[:, _PROMPT:])


def llama(shape: Shape, kind: str, threads: int) -> Running:
    """llama.cpp through node-llama-cpp, on the same weights."""
    process = llama_cpp.LlamaCpp(shape.config, shapes.weights(shape), kind, threads)
    ids = prompt(shape)[0].tolist()
    answer, _ = process.greedy(ids, _NEW)
    return Running([answer], lambda: _NEW / process.greedy(ids, _NEW)[1], process.close)


def transformers_sampled(shape: Shape) -> Running:
    """`GPT2LMHeadModel.generate`, sampling."""
    model = huggingface.model(shape.config, shapes.weights(shape)).eval()
    ids, options = prompt(shape), {"do_sample": True, "temperature": 0.8, "top_k": 50}
    return running(lambda: huggingface.greedy(model, ids, _NEW, **options))


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


def same_ids(answers: Mapping[str, list[list[int]]], shape: Shape, exact: bool) -> str:
    """`near_likeliest`; in fp32 the ids themselves too, but for llama.cpp, which keeps keys and values in 16 bits."""
    checked = near_likeliest(answers, shape)
    if not exact:
        return checked
    equal = {name: answer for name, answer in answers.items() if "llama.cpp" not in name}
    return f"{checked}; {agree_exactly(equal, 'the greedy continuation (llama.cpp apart)')}"


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
