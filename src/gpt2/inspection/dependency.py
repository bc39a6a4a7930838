"""Which inputs each output really depends on, found by nudging them: a leak and a missed past both show.

A causal mask is easy to test for leaks and easy to break otherwise: heads split and merged without a transpose can
be perfectly causal and still see only a part of the past. So both halves of the square are measured.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result
from gpt2.model import GPT2

# Relative change of an output that counts as one; rounding in fp32 norms stays far below it.
_MOVED = 1e-6
_NUDGES = 3


@dataclass(frozen=True)
class Dependency(Result):
    """How far each output moves when an input is changed. T positions."""

    kind = "dependency"
    name: str
    moved: Tensor
    """(T, T): row i, column j: largest change of output i when token j changes, relative to the outputs' size."""
    future_lit: int
    """Cells above the diagonal that moved; a causal model has none."""
    future_cells: int
    past_dark: int
    """Cells on or below the diagonal that did not move; a whole model has none."""
    past_cells: int
    row_sum: float | None
    """Smallest row sum of any attention pattern; None: the model shows none."""
    check: Check | None = None

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later token."""
        return self.future_lit == 0

    @property
    def complete(self) -> bool:
        """Whether every output depends on every token up to its own."""
        return self.past_dark == 0

    @property
    def title(self) -> str:
        return f"What {self.name} depends on"

    @property
    def summary(self) -> str:
        verdict = {
            (True, True): "each output depends on all of its past and on nothing else",
            (True, False): "no output sees the future, but some do not see all of their past",
            (False, True): "outputs depend on tokens that come later: the future leaks",
            (False, False): "outputs depend on later tokens, and miss a part of their past",
        }[self.causal, self.complete]
        sums = "" if self.row_sum is None else f"; the smallest row sum of attention is {self.row_sum:.3f}"
        return (
            f"{self.future_lit} of {self.future_cells} future cells lit, {self.past_dark} of {self.past_cells} "
            f"past cells dark: {verdict}{sums}."
        )

    @property
    def how_to_read(self) -> str:
        return (
            "Token j is changed; output i moves or not. A correct model: all coloured up to the stairs, nothing beyond."
        )

    def rows(self) -> list[list[str]]:
        sums = "not shown" if self.row_sum is None else f"{self.row_sum:.3f}"
        return [
            ["measure", "found", "should be"],
            ["future cells lit", f"{self.future_lit} of {self.future_cells}", "0"],
            ["past cells dark", f"{self.past_dark} of {self.past_cells}", "0"],
            ["smallest row sum of attention", sums, "1"],
        ]

    def _size(self) -> tuple[float, float]:
        return 5.4, 3.9

    def _draw(self, canvas: Canvas) -> None:
        time = len(self.moved)
        logs = self.moved.clamp(min=_MOVED).log10()
        shown = torch.where(self.moved > _MOVED, (logs + 6.5) / 6.5, 0.0)
        axes = canvas.axes()
        canvas.matrix(axes, shown, top=1.0)
        leaks = ((self.moved > _MOVED) & torch.ones(time, time).triu(1).bool()).nonzero()
        axes.plot(leaks[:, 1], leaks[:, 0], "x", color=canvas.theme.second, markersize=5, label="leak")
        missed = ((self.moved <= _MOVED) & torch.ones(time, time).tril().bool()).nonzero()
        axes.plot(missed[:, 1], missed[:, 0], ".", color=canvas.theme.second, markersize=4, label="missed past")
        stairs = [(i + k, i) for i in range(time) for k in (-0.5, 0.5)] + [(time - 0.5, time)]
        axes.plot([x for x, _ in stairs], [y - 0.5 for _, y in stairs], color=canvas.theme.muted, linewidth=1)
        step = max(1, time // 8)
        axes.set(xlabel="token j that is changed", ylabel="output i", aspect="equal",
                 xticks=range(0, time, step), yticks=range(0, time, step))  # fmt: skip
        if len(leaks) or len(missed):
            handles, labels = axes.get_legend_handles_labels()
            kept = [(h, n) for h, n, some in zip(handles, labels, (leaks, missed), strict=True) if len(some)]
            axes.legend([h for h, _ in kept], [n for _, n in kept], loc="upper left", bbox_to_anchor=(1.0, 1.0))
        ticks = [(power + 6.5) / 6.5 for power in (-6, -4, -2, 0)]
        from matplotlib.cm import ScalarMappable

        bar = canvas.figure.colorbar(
            ScalarMappable(None, canvas.theme.ramp()), ax=axes, shrink=0.7, aspect=22, pad=0.03,
            label="relative change of the output",
        )  # fmt: skip
        bar.set_ticks(ticks, labels=["none", "1e-4", "1e-2", "1"])
        bar.outline.set_visible(False)  # pyright: ignore


@torch.no_grad()
def dependency(
    model: GPT2 | Callable[[Tensor], Tensor], time: int = 16, *, vocab_size: int | None = None, name: str = "the model",
    seed: int = 0,
) -> Dependency:  # fmt: skip
    """Change each token of a text in turn and see which outputs move.

    The model is asked the way it is used, untapped; a `GPT2` is copied and measured in float64 on the CPU.

    Args:
        model: a `GPT2`, or any function from ids (B, T) to outputs (B, T, ...).
        time: tokens, at most the context.
        vocab_size: for a function; a model has its own.
        name: for the title.
        seed: of the random ids.
    """
    row_sum: float | None = None
    call: Callable[[Tensor], Tensor] = model
    if isinstance(model, GPT2):
        vocab_size, time = model.config.vocab_size, min(time, model.config.context_length)
        twin = copy.deepcopy(model).to(device="cpu", dtype=torch.float64).eval()
        twin.compute_dtype, call = None, twin
    generator = torch.Generator().manual_seed(seed)
    size = vocab_size or 2
    moved, base = torch.zeros(time, time), torch.randint(size, (1, time), generator=generator)
    place = torch.arange(time)
    for _ in range(_NUDGES):
        ids = base.repeat(time + 1, 1)
        ids[place, place] = (base[0] + 1 + torch.randint(max(1, size - 1), (time,), generator=generator)) % size
        outputs = call(ids).double().flatten(2)
        change = (outputs[:time] - outputs[time]).abs().amax(dim=-1)  # (j, i)
        moved = torch.maximum(moved, (change.T / outputs.abs().max()).float())
    lit, above = moved > _MOVED, torch.ones(time, time).triu(1).bool()
    if isinstance(model, GPT2):
        row_sum = _smallest_row_sum(call, base)
    again = float((call(base).double().flatten(2)[0] - outputs[time]).abs().max() / outputs.abs().max())
    return Dependency(
        name, moved, int((lit & above).sum()), int(above.sum()), int((~lit & ~above).sum()), int((~above).sum()),
        row_sum,
        Check("the unchanged text gives the same outputs alone and in the batch", again, _MOVED),
    )  # fmt: skip


def _smallest_row_sum(model: Callable[..., Tensor], ids: Tensor) -> float:
    sums: list[float] = []

    def tap(name: str, value: Tensor) -> Tensor:
        if name.endswith("hook_pattern"):
            sums.append(float(value.sum(dim=-1).min()))
        return value

    model(ids, tap=tap)
    return min(sums)
