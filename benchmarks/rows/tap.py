"""What the tap costs when nobody taps: the model beside a twin whose source has no tap in it.

In processor time: what else the machine does can change the clock tenfold, branches that are not taken hardly at all.
"""

import ast
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.measure import Entry, Row, Running, agree_on_number
from benchmarks.shapes import Shape
from gpt2 import GPT2
from gpt2.data.loader import Batch
from gpt2.model.kv_cache import KVCache
from gpt2.model.ops import Kernels
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.optimizers import build_optimizer

# Module -> its twin, each before those that import it.
_TWINS = {
    f"gpt2.model.{name}": f"untapped_{name.replace('.', '_')}" for name in ("ops.fused", "layers", "attention", "gpt2")
}
_STEPS, _TOKENS = 16, 128


def rows() -> list[Row]:
    """Training and decoding, small enough that a test of an argument would show."""
    shape = replace(shapes.SHAPES["4x128"], batch=2, time=64)
    return [row(shape, job) for job in ("training", "decoding")]


def row(shape: Shape, job: str) -> Row:
    """One job, by the model and by its twin."""
    start = {"training": training_steps, "decoding": decoding_steps}[job]
    settings = {
        "training": f"forward, backward and AdamW in fp32 on {shape.tokens} tokens, {_STEPS} steps per round",
        "decoding": f"{_TOKENS} forward passes of one token, KV cache, fp32, as where there is no compiled step",
    }
    return Row(
        f"tap-{job}", f"The tap unused: {job}, {shape.name}", "steps per second of a processor",
        [
            Entry("gpt2-from-scratch", partial(_started, start, shape, False), True),
            Entry("the same source with every tap cut out", partial(_started, start, shape, True)),
        ],
        partial(agree_on_number, tolerance=0.0, what="the result"),
        settings=f"{settings[job]}, one thread; the twin is made from the source by removing the parameter, "
        "its arguments and its branches from the syntax tree",
    )  # fmt: skip


def _started(start: Callable[[Callable[..., Any], Shape], Running], shape: Shape, cut: bool) -> Running:
    return start(partial(twin(), kernels=_twin_kernels()) if cut else GPT2, shape)


def training_steps(make: Callable[..., Any], shape: Shape) -> Running:
    """Steps as the trainer makes them."""
    model = make(shape.config)
    model.load_state_dict(shapes.weights(shape))
    loss, update = LanguageModelLoss(model), build_optimizer(model, "adamw", 1e-3, 0.1)
    ids, targets = shapes.batch(shape)
    example = Batch(ids.view(1, -1), targets.view(1, -1), [shape.time] * shape.batch)

    def steps(count: int) -> float:
        total = torch.zeros(())
        for _ in range(count):
            total, tokens = loss(example)
            (total / tokens).backward()
            update.step()
            model.zero_grad(set_to_none=True)
        return float(total.detach())

    return _running(steps, _STEPS)


def decoding_steps(make: Callable[..., Any], shape: Shape) -> Running:
    """Greedy decoding by the forward pass."""
    model = make(shape.config)
    model.load_state_dict(shapes.weights(shape))
    model.eval()

    @torch.no_grad()
    def steps(count: int) -> float:
        cache, ids, sum_of_ids = KVCache(shape.config, 1), torch.zeros(1, 1, dtype=torch.long), 0.0
        for _ in range(count):
            ids = model(ids, cache=cache)[:, -1].argmax(dim=-1, keepdim=True)
            sum_of_ids += float(ids)
        return sum_of_ids

    return _running(steps, _TOKENS)


def _running(steps: Callable[[int], float], count: int) -> Running:
    answer = steps(count)

    def measure() -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threads that wait for each other would count as work
        start = time.process_time()
        steps(count)
        used = time.process_time() - start
        torch.set_num_threads(threads)
        return count / used

    return Running(answer, measure)


class _Cut(ast.NodeTransformer):
    """Removes the parameter `tap`, what is handed on through it, and what happens if it is there."""

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        plain = [arg.arg for arg in node.args]
        if "tap" in plain:  # always the last, and optional
            assert plain[-1] == "tap"
            node.args.pop()
            node.defaults.pop()
        kept = [(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if a.arg != "tap"]
        node.kwonlyargs, node.kw_defaults = [a for a, _ in kept], [d for _, d in kept]
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return node.orelse or None if ast.unparse(node.test) == "tap is not None" else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.args = [arg for arg in node.args if not ast.unparse(arg).startswith(("tap", "scope("))]
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "tap"]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        node.module = _TWINS.get(node.module or "", node.module)
        return node


def source_without_tap(module: str) -> str:
    """The source of a module without its taps, which imports other twins.

    Raises:
        ValueError: some remain, so there would be nothing to compare with.
    """
    tree = _Cut().visit(ast.parse(inspect.getsource(import_module(module))))
    left = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ("tap", "scope")]
    if left:
        raise ValueError(f"{module}: taps remain, the first as {left[0].id} in line {left[0].lineno}")
    return ast.unparse(ast.fix_missing_locations(tree))


def twin() -> type:
    """The model's class, made from its source without taps."""
    for module, name in _TWINS.items():
        if name not in sys.modules:
            made = ModuleType(name)
            exec(compile(source_without_tap(module), name, "exec"), vars(made))
            sys.modules[name] = made
    return sys.modules[_TWINS["gpt2.model.gpt2"]].GPT2


def _twin_kernels() -> Kernels:
    made = sys.modules[_TWINS["gpt2.model.ops.fused"]]
    return Kernels(
        "fused", **{field.name: getattr(made, field.name) for field in fields(Kernels) if field.name != "name"}
    )
