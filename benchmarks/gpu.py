"""The rows of one NVIDIA GPU: `python -m benchmarks.gpu`. Prints its table; not yet run on a GPU.

Training at 6x512 and at GPT-2's own shape, compiled, beside the hand-written model compiled, and decoding one sequence.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks import measure, report, shapes
from benchmarks.measure import Entry, Row, Running, agree_on_number
from benchmarks.peers import huggingface, nanogpt_style
from benchmarks.shapes import Shape
from gpt2 import GPT2Config
from gpt2.data.loader import Batch
from gpt2.device import matmul_speed
from gpt2.model.flops import flops_per_token
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.optimizers import build_optimizer

_DEVICE = torch.device("cuda")
_STEPS = 10
SHAPES = (
    Shape("6x512", GPT2Config(), batch=256, time=512),
    Shape("124M", GPT2Config(50_304, 1024, 768, 12, 12), batch=32, time=1024),
)


def rows() -> list[Row]:
    """Training at both shapes, decoding at the first."""
    return [*map(training, SHAPES), decoding(SHAPES[0])]


def training(shape: Shape) -> Row:
    """Tokens/s of forward, backward and AdamW."""
    entries = [
        Entry("gpt2-from-scratch bf16, compiled", partial(ours, shape, True), True),
        Entry("gpt2-from-scratch bf16, eager", partial(ours, shape, False), True),
        Entry("nanoGPT style bf16, compiled", partial(nanogpt, shape)),
    ]
    return Row(
        f"gpu-training-{shape.name}", f"Training on {torch.cuda.get_device_name()}, {shape.name}", "tokens/s", entries,
        partial(agree_on_number, tolerance=2e-2, what="the loss of the first batch"),
        lambda: ("arithmetic at the measured speed of bf16 matrix products",
                 matmul_speed(_DEVICE, torch.bfloat16) / flops_per_token(shape.config)),
        settings=f"{shape.tokens:,} tokens per step, context {shape.time}",
    )  # fmt: skip


def ours(shape: Shape, compiled: bool) -> Running:
    """The package's own parts."""
    model = shapes.our_model(shape).to(_DEVICE)
    model.compute_dtype = torch.bfloat16
    if compiled:
        model.transformer.compile()
    loss, update = LanguageModelLoss(model), build_optimizer(model, "adamw", 1e-3, 0.1)
    ids, targets = shapes.batch(shape)
    example = Batch(ids.view(1, -1), targets.view(1, -1), [shape.time] * shape.batch).to(_DEVICE)

    def step() -> torch.Tensor:
        total, tokens = loss(example)
        (total / tokens).backward()
        update.step()
        model.zero_grad(set_to_none=True)
        return total.detach() / tokens

    return _running(shape, step)


def nanogpt(shape: Shape) -> Running:
    """The field's hand-written model, compiled."""
    model = nanogpt_style.NanoGPT(shape.config).load(shapes.weights(shape)).to(_DEVICE)
    forward, optimizer = torch.compile(model), nanogpt_style.adamw(model)
    ids, targets = (tensor.to(_DEVICE) for tensor in shapes.batch(shape))

    def step() -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = forward(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return _running(shape, step)


def _running(shape: Shape, step: Callable[[], torch.Tensor]) -> Running:
    answer = float(step())
    for _ in range(3):
        step()

    def measure_once() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
        return _STEPS * shape.tokens / (time.perf_counter() - start)

    return Running(answer, measure_once)


def decoding(shape: Shape) -> Row:
    """One sequence, greedy."""
    from benchmarks.rows import decoding as cpu

    def of_ours() -> Running:
        model = shapes.our_model(shape).to(_DEVICE, torch.bfloat16).eval()
        ids = cpu.prompt(shape)
        return cpu.running(lambda: model.generate(ids, 248, temperature=0.0)[:, ids.shape[1] :])

    def of_transformers(cache: str | None) -> Running:
        model = huggingface.model(shape.config, shapes.weights(shape), torch.bfloat16).to(_DEVICE).eval()
        ids, options = cpu.prompt(shape).to(_DEVICE), {} if cache is None else {"cache_implementation": cache}
        return cpu.running(lambda: huggingface.greedy(model, ids, 248, **options))

    return Row(
        "gpu-decoding", f"Decoding one sequence on {torch.cuda.get_device_name()}, {shape.name}, bf16", "tokens/s",
        [Entry("gpt2-from-scratch", of_ours, True), Entry("transformers", partial(of_transformers, None)),
         Entry("transformers, static cache, compiled by itself", partial(of_transformers, "static"))],
        partial(cpu.near_likeliest, shape=shape), settings="prompt of 8 ids, 248 new ones, greedy",
    )  # fmt: skip


def main() -> int:
    """Run every row and print its table."""
    if not torch.cuda.is_available():
        print("gpt2 bench: error: PyTorch finds no CUDA GPU here; `gpt2 bench` measures the CPU", file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("high")
    for row in rows():
        print(row.title, flush=True)
        print(f"\n{report.table(measure.run(row, 5, lambda line: print(line, flush=True)))}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
