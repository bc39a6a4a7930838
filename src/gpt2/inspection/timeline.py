"""Any measure over the snapshots of a run: when did the model learn it?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2.checkpoint import RunFolder, load
from gpt2.checkpoint.snapshots import Snapshot, list_snapshots
from gpt2.errors import CheckpointError, ConfigError, nearest
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.induction import induction
from gpt2.inspection.partial import token_losses
from gpt2.inspection.reference import batches, documents
from gpt2.inspection.result import Check, Result
from gpt2.inspection.run import run
from gpt2.model import GPT2, IGNORED
from gpt2.tokenizer import Tokenizer

Value = float | Tensor | Mapping[str, float]
Measure = Callable[[GPT2, Tokenizer], Value]
"""A model of the run at one moment to a number, several by name, or a matrix (a frame of a film)."""

TEXT = "Once upon a time there was a little girl named Lily. Lily had a dog. One day Lily"
# Of measures with several lines; one line has its own name.
_UNITS = {"induction": "share of attention", "residual": "Euclidean length"}


@dataclass(frozen=True)
class Timeline(Result):
    """A measure at each snapshot. S snapshots."""

    kind = "timeline"
    of: str
    measure: str
    steps: list[int]
    tokens: list[int | None]
    lines: dict[str, list[float]]
    """By name: (S,)."""
    frames: Tensor | None
    """(S, rows, columns), of a measure that is a matrix."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"{self.measure[0].upper()}{self.measure[1:]} while “{self.of}” learned"

    @property
    def summary(self) -> str:
        if self.frames is not None:
            return f"{len(self.steps)} frames, from step {self.steps[0]:,} to step {self.steps[-1]:,}."
        moves = [f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, values in self.lines.items()]
        return f"From step {self.steps[0]:,} to {self.steps[-1]:,}: {', '.join(moves)}."

    @property
    def how_to_read(self) -> str:
        if self.frames is not None:
            return (
                "One frame per snapshot, its step above it. Down: from (query). Across: to (key). Grey: the future. "
                "Colours from no attention (the page's) to all of it, by the square root."
            )
        return "Over optimizer steps, on a scale that gives the early ones room; each dot is a snapshot of the weights."

    def rows(self) -> list[list[str]]:
        if self.frames is not None:
            return [
                ["step", "largest value"],
                *[[f"{s:,}", f"{float(f.max()):.3f}"] for s, f in zip(self.steps, self.frames, strict=True)],
            ]
        lines = [[f"{s:,}", *(f"{v[i]:.4g}" for v in self.lines.values())] for i, s in enumerate(self.steps)]
        return [["step", *self.lines], *lines]

    def _size(self) -> tuple[float, float]:
        if self.frames is None:
            return 7.5, 3.4
        across = min(6, len(self.steps))
        return 1.35 * across + 0.9, 1.5 * -(-len(self.steps) // across) + 0.1

    def _draw(self, canvas: Canvas) -> None:
        if self.frames is not None:
            self._draw_frames(canvas, self.frames)
            return
        axes, theme = canvas.axes(), canvas.theme
        colours = [theme.lines[i % len(theme.lines)] for i in range(len(self.lines))]
        for i, (name, values) in enumerate(self.lines.items()):  # told apart without colours, too, and where they meet
            look = {"color": colours[i], "linestyle": "-" if i == 0 else (0, (4, 1 + i)), "marker": "osD^v"[i % 5]}
            axes.plot(self.steps, values, label=name, markersize=3.5, linewidth=1.6, clip_on=False, **look)
        early = next((step for step in self.steps if step > 0), 1)
        axes.set_xscale("symlog", linthresh=early, linscale=0.3)
        shown = self.steps if len(self.steps) <= 8 else [self.steps[0], *reversed(self.steps[:1:-2])]
        axes.set_xticks(shown, [f"{step:,}" for step in shown])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("optimizer steps")
        axes.grid(axis="y", alpha=0.6)
        axes.set_ylabel(_UNITS.get(self.measure, next(iter(self.lines)) if len(self.lines) == 1 else ""))
        if self.measure in _UNITS:  # a length from zero: else noise would fill the picture
            axes.set_ylim(0.0, 1.08 * max(max(values) for values in self.lines.values()) or 1.0)
        if len(self.lines) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    def _draw_frames(self, canvas: Canvas, frames: Tensor) -> None:
        across = min(6, len(frames))
        grid = canvas.figure.subplots(-(-len(frames) // across), across, squeeze=False)
        visible = torch.ones(frames.shape[1:]).tril().bool()
        for i, axes in enumerate(grid.ravel()):
            if i >= len(frames):
                axes.set_visible(False)
                continue
            canvas.matrix(axes, frames[i], top=1.0, root=True, visible=visible, lines=False)
            canvas.stairs(axes, len(visible))
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.set_title(f"step {self.steps[i]:,}", fontsize=7.5, pad=2)


def timeline(
    folder: str | Path, measure: str | Measure = "induction", *, text: str = TEXT, layer: int = 0, head: int = 0
) -> Timeline:
    """Measure a run's model at each of its snapshots (`gpt2 train --snapshots`), or else its checkpoints.

    Args:
        folder: the run.
        measure: "loss" (bundled stories), "induction", "attention" (one head reading `text`), "residual" (lengths at
            the end and the beginning), "surprise" (nats on `text`), or any function of model and tokenizer.
        text: what is read, where a measure reads one text.
        layer: of the head.
        head: of the head.

    Raises:
        CheckpointError: no snapshots and no checkpoints, or damaged ones.
        ConfigError: an unknown measure.
    """
    places = RunFolder(folder)
    model, tokenizer = load(folder)
    snapshots = list_snapshots(places.snapshots, places.checkpoints)
    if not snapshots:
        raise CheckpointError(f"{folder} has neither snapshots nor checkpoints; train with --snapshots 12 to keep some")
    ready = _measures(text, layer, head)
    if isinstance(measure, str) and measure not in ready:
        raise ConfigError(f"unknown measure {measure!r}.{nearest(measure, ready)} There are {', '.join(ready)}")
    function = ready[measure] if isinstance(measure, str) else measure
    name = measure if isinstance(measure, str) else getattr(measure, "__name__", "measure").replace("_", " ")
    name = f"attention of head {layer}.{head}" if name == "attention" else name
    values = [_at(snapshot, model, tokenizer, function) for snapshot in snapshots]
    again = _at(snapshots[-1], model, tokenizer, function)
    film = isinstance(values[0], Tensor)
    lines = {} if film else {key: [dict(_named(v, name))[key] for v in values] for key in dict(_named(values[0], name))}
    return Timeline(
        Path(folder).name, name, [snapshot.step for snapshot in snapshots], [snapshot.tokens for snapshot in snapshots],
        lines, torch.stack(values) if film else None,  # pyright: ignore
        Check("measured again, the last snapshot gives the same", _apart(values[-1], again, name)),
    )  # fmt: skip


def _at(snapshot: Snapshot, model: GPT2, tokenizer: Tokenizer, measure: Measure) -> Value:
    snapshot.load_into(model)
    return measure(model, tokenizer)


def _named(value: Value, name: str) -> Mapping[str, float]:
    return {name: float(value)} if isinstance(value, (int, float)) else value  # pyright: ignore


def _apart(one: Value, other: Value, name: str) -> float:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return float((one - other).abs().max())
    first, second = _named(one, name), _named(other, name)
    return max(abs(first[key] - second[key]) for key in first)


def _measures(text: str, layer: int, head: int) -> dict[str, Measure]:
    def read(model: GPT2, tokenizer: Tokenizer) -> Any:
        return run(model, tokenizer, text)

    def of_induction(model: GPT2, tokenizer: Tokenizer) -> Value:
        found = induction(model, tokenizer, count=32)
        place = found.best
        return {
            "best score": float(found.scores[place]),
            "by position": float(found.by_position[place]),
            "chance": found.chance,
        }

    def of_residual(model: GPT2, tokenizer: Tokenizer) -> Value:
        view = read(model, tokenizer).residual_norms()
        return {
            "embeddings": float(view.stream[0, 1:].median()),
            "end of the stream": float(view.stream[-1, 1:].median()),
        }

    return {
        "loss": story_loss,
        "induction": of_induction,
        "attention": lambda model, tokenizer: read(model, tokenizer).attention(layer, head).pattern.cpu(),
        "residual": of_residual,
        "surprise": lambda model, tokenizer: {"nats per token": float(read(model, tokenizer).loss)},
    }


@torch.no_grad()
def story_loss(model: GPT2, tokenizer: Tokenizer) -> Value:
    """Nats per token on 32 bundled stories, each up to the context's length."""
    total, count = 0.0, 0
    with model.evaluating():
        for ids, real in batches(documents(model, tokenizer, count=32), next(model.parameters()).device):
            targets = torch.where(real[:, 1:], ids[:, 1:], IGNORED)
            total += float(token_losses(model, model.hidden(ids[:, :-1]), targets).sum())
            count += int(real[:, 1:].sum())
    return {"nats per token": total / count}
