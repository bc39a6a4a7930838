"""What checkpoints cost a training that goes on while they are written: processor time, the writing thread's included.

Processor time and not the clock: it does not depend on what else the machine does, and counts the thread's work even
where another core does it. That nobody waits for the disk is a test's to show (tests/faults/test_endurance.py).
"""

import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks import shapes
from benchmarks.measure import Entry, Row, Running, agree_exactly
from benchmarks.shapes import Shape
from gpt2.settings import TrainSettings
from gpt2.training.run import assemble
from gpt2.training.trainer import StepResult, Trainer

_BATCH, _WARM_UP = 4, 5


def rows() -> list[Row]:
    """At the small shape, whose steps are short and checkpoints therefore close together."""
    return [row(shapes.SHAPES["4x128"], 115, 50)]


def row(shape: Shape, steps: int, save_every: int) -> Row:
    """Whole trainings of some steps, with checkpoints and without."""
    return Row(
        f"saving-{shape.name}", f"Training while checkpoints are written, {shape.name}", "ms of a processor per step",
        [
            Entry(f"a checkpoint every {save_every} steps", partial(_training, shape, steps, save_every), True),
            Entry("no checkpoint", partial(_training, shape, steps, 10**9)),
        ],
        partial(agree_exactly, what="every loss, bit for bit,"), more_is_better=False,
        settings=f"{steps} steps of `gpt2 train` on the bundled stories, {_BATCH} x "
        f"{shape.config.context_length} tokens each; weights, average and optimizer state go to the disk, hashed and "
        "synced, by a thread",
    )  # fmt: skip


def _training(shape: Shape, steps: int, save_every: int) -> Running:
    losses, _ = _train(shape, 2 * _WARM_UP, save_every if save_every > steps else _WARM_UP)  # the check: a save or none
    return Running(losses, lambda: _train(shape, steps, save_every)[1])


def _train(shape: Shape, steps: int, save_every: int) -> tuple[list[str], float]:
    """The losses in bits, and milliseconds of processor time per step."""
    config, losses, moments = shape.config, [], []

    def note(trainer: Trainer, result: StepResult) -> None:
        losses.append(result.loss.hex())
        moments.append(time.process_time())
        if trainer.state.step == steps:
            trainer.stop_reason = "enough"

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings.make(
            out=str(Path(folder) / "run"), d_model=config.d_model, num_layers=config.num_layers, snapshots=0,
            num_heads=config.num_heads, context_length=config.context_length, vocab_size=max(300, config.vocab_size),
            batch_size=_BATCH, steps=10**6, evals=1, save_every=save_every, device="cpu",
            threads=1,  # threads that wait for each other would count as work
        )  # fmt: skip
        session = assemble(settings, progress=False)
        assert session is not None
        session.fit([note])
    first = min(_WARM_UP, steps - 2)
    return losses, 1000 * (moments[-1] - moments[first]) / (len(moments) - 1 - first)
