"""What checkpoints cost a training that goes on while they are written: processor time, the writing thread's included.

The time of the threads and not the clock: a difference of two clocks drowns in what else the machine does. That nobody
waits for the disk is a test's to show (tests/faults/test_endurance.py).
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import shapes
from benchmarks.measure import Entry, Row, Running, agree_exactly
from benchmarks.shapes import Shape
from gpt2.settings import TrainSettings
from gpt2.training.run import assemble
from gpt2.training.saving import Saving
from gpt2.training.trainer import StepResult, Trainer

_BATCH, _WARM_UP = 4, 5


def rows() -> list[Row]:
    """At the small shape, whose steps are short and checkpoints therefore close together."""
    return [row(shapes.SHAPES["4x128"], 60, 50)]


def row(shape: Shape, steps: int, save_every: int) -> Row:
    """A training's steps, and what its checkpoints add to each."""
    every = f"a checkpoint every {save_every} steps, per step"
    return Row(
        f"saving-{shape.name}", f"What checkpoints add to a training step, {shape.name}", "ms of a processor",
        [
            Entry(every, partial(_training, shape, steps, save_every), True),
            Entry("the step itself", partial(_training, shape, steps, None), True),  # no peer: nothing is compared
        ],
        partial(agree_exactly, what="every loss, bit for bit, with checkpoints and without,"), more_is_better=False,
        settings=f"{steps} steps of `gpt2 train` on the bundled stories, {_BATCH} x "
        f"{shape.config.context_length} tokens each, one thread; weights, average and optimizer state are copied, and "
        "a thread writes, syncs and hashes them: the time of both on a processor",
    )  # fmt: skip


def _training(shape: Shape, steps: int, save_every: int | None) -> Running:
    losses, _, _ = _train(shape, 2 * _WARM_UP, None if save_every is None else _WARM_UP)  # the check

    def measure() -> float:
        _, step, save = _train(shape, steps, save_every)
        return step if save_every is None else save / save_every

    return Running(losses, measure)


def _train(shape: Shape, steps: int, save_every: int | None) -> tuple[list[str], float, float]:
    """The losses in bits; milliseconds of processor time per step, and per save."""
    config, losses, moments, spent = shape.config, [], [], []

    def note(trainer: Trainer, result: StepResult) -> None:
        losses.append(result.loss.hex())
        moments.append(time.process_time())
        if trainer.state.step == steps:
            trainer.stop_reason = "enough"

    def counted(work: Callable[..., Any]) -> Callable[..., None]:
        def run(*given: Any) -> None:
            began = time.thread_time()
            work(*given)
            spent.append(time.thread_time() - began)

        return run

    original = Saving._start, Saving._write
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings.make(
            out=str(Path(folder) / "run"), d_model=config.d_model, num_layers=config.num_layers, snapshots=0,
            num_heads=config.num_heads, context_length=config.context_length, vocab_size=max(300, config.vocab_size),
            batch_size=_BATCH, steps=10**6, evals=1, save_every=save_every, device="cpu",
            threads=1,  # threads that wait for each other would count as work
        )  # fmt: skip
        session = assemble(settings, progress=False)
        assert session is not None
        try:
            Saving._start, Saving._write = map(counted, original)  # type: ignore[method-assign]
            session.fit([note])
        finally:
            Saving._start, Saving._write = original  # type: ignore[method-assign]
    first = min(_WARM_UP, steps - 2)
    per_step = (moments[-1] - moments[first]) / (len(moments) - 1 - first)
    return losses, 1000 * per_step, 1000 * sum(spent) / (len(spent) / 2)
