"""Pictures of sweeps and of scaling laws: SVG with real text, the same bytes each time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.experiments.family import Outcome
from gpt2.experiments.sweep import Trial
from gpt2.files import atomic_write

_PANELS_BESIDE, _LABELLED = 3, 6
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
    columns = min(_PANELS_BESIDE, max(1, len(names)))
    rows = -(-max(1, len(names)) // columns)
    with _figure(target, (3.8 * columns, 3.4 * rows + 0.2)) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            places = _place(axes, [trial.params[name] for trial in done])
            losses = [trial.bits_per_byte for trial in done]
            axes.plot(places, losses, "o", color=_BLUE, alpha=0.6, markersize=6)
            axes.plot(places[:1], losses[:1], "o", color=_ORANGE, markersize=9)  # the trials come with the best first
            axes.set_xlabel(name)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        figure.supylabel("bits per byte of held-out text", fontsize="medium")
        figure.suptitle(f"{len(done)} trials; the best, in orange: {done[0].bits_per_byte:.4f} bits per byte")


def _place(axes: Any, values: Sequence[Any]) -> list[float]:
    """Where the values stand on the axis: a few side by side, each with its label; many numbers on a scale."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    kinds = sorted(set(values)) if numbers else sorted({str(value) for value in values})
    if not numbers or len(kinds) <= _LABELLED:
        axes.set_xticks(range(len(kinds)), _labels(kinds))
        axes.set_xlim(-0.5, len(kinds) - 0.5)
        return [float(kinds.index(value if numbers else str(value))) for value in values]
    if min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    return list(values)


def _labels(kinds: Sequence[Any]) -> list[str]:
    """Numbers in three digits, where that tells them apart: longer ones, as a random search draws, would meet."""
    short = [f"{kind:.3g}" if isinstance(kind, float) else f"{kind}" for kind in kinds]
    return short if len(set(short)) == len(kinds) else [f"{kind}" for kind in kinds]


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
            above = one.bits_per_byte >= outcome.law(np.array([one.compute]))[0]
            # The law falls: to the right above it, and to the left below it, no name meets it.
            where = {"xytext": (6, 8), "ha": "left"} if above else {"xytext": (-9, -4), "ha": "right"}
            axes.annotate(size, (one.compute, one.bits_per_byte), textcoords="offset points", color=_GREY, **where)
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
