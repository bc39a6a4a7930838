"""Pictures of sweeps and of scaling laws: SVG with real text, the same bytes each time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.experiments.family import Outcome
from gpt2.experiments.sweep import Trial
from gpt2.files import atomic_write

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#c9833d", "#5d6672"


def draw_sweep(trials: Sequence[Trial], target: Path) -> None:
    """One panel per setting: its values, and what the trials reached with them. Nothing with under two trials.

    Args:
        trials: of the sweep.
        target: the SVG.
    """
    done = [trial for trial in trials if trial.bits_per_byte is not None]
    if len(done) < 2:
        return
    names = [name for name in done[0].params if len({repr(trial.params[name]) for trial in done}) > 1]
    with _figure(target, (4.2 * max(1, len(names)), 3.6)) as figure:
        grid = np.atleast_1d(figure.subplots(1, max(1, len(names)), sharey=True))
        for axes, name in zip(grid, names, strict=False):
            values = [trial.params[name] for trial in done]
            losses = [trial.bits_per_byte for trial in done]
            if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
                values = [str(value) for value in values]
            elif min(values) > 0 and max(values) >= 8 * min(values):
                axes.set_xscale("log")
            axes.plot(values, losses, "o", color=_BLUE, alpha=0.6, markersize=6)
            axes.plot(values[:1], losses[:1], "o", color=_ORANGE, markersize=9)  # the trials come with the best first
            axes.set_xlabel(name)
        grid[0].set_ylabel("bits per byte of held-out text")
        figure.suptitle(f"{len(done)} trials; the best in orange: {done[0].bits_per_byte:.4f}")


def draw_law(outcome: Outcome, target: Path) -> None:
    """The family, its law with a 95 % band for single runs, and the run that was held back.

    Args:
        outcome: what was found.
        target: the SVG.
    """
    members, check = outcome.members, outcome.check
    compute = np.array([member.compute for member in members])
    line = np.geomspace(compute.min() / 1.3, check.compute * 1.3, 200)
    low, high = outcome.law.interval(line)
    with _figure(target, (7.5, 4.5)) as figure:
        axes = figure.add_subplot()
        axes.fill_between(line, low, high, color=_BLUE, alpha=0.15, linewidth=0, label="95 % for a run")
        axes.plot(line, outcome.law(line), color=_BLUE, linewidth=2, label="the law")
        axes.plot(compute, [m.bits_per_byte for m in members], "o", color=_GREY, label="what it was fitted to")
        axes.plot(check.compute, check.bits_per_byte, "D", color=_ORANGE, markersize=9, label="the run held back")
        for size in dict.fromkeys(member.size for member in [*members, check]):
            one = next(member for member in [*members, check] if member.size == size)
            axes.annotate(
                size, (one.compute, one.bits_per_byte), xytext=(6, 8), textcoords="offset points", color=_GREY
            )
        axes.set(xscale="log", xlabel="training compute, 6 N D (FLOPs)", ylabel="bits per byte of held-out text")
        axes.set_title(f"exponent {outcome.law.exponent:.3f}, floor {outcome.law.floor:.3f} bits per byte")
        axes.legend(frameon=False, loc="upper right")


@contextmanager
def _figure(target: Path, size: tuple[float, float]) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "gpt2", "font.family": "sans-serif",
             "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with atomic_write(target, "wb") as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
