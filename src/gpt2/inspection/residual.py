"""The length of the residual stream, stage by stage, and what each branch adds to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2.config import LAYER_NORM_EPSILON
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result, difference

if TYPE_CHECKING:
    from gpt2.inspection.run import Run


@dataclass(frozen=True)
class ResidualNorms(Result):
    """Euclidean norms of the stream and of what each branch adds. T positions, L layers."""

    kind = "residual_norms"
    of: str
    tokens: list[str]
    stages: list[str]
    """"embeddings", "after attention 0", "after MLP 0", ..."""
    stream: Tensor
    """(2 L + 1, T)."""
    branches: list[str]
    """"attention 0", "MLP 0", ..."""
    added: Tensor
    """(2 L, T)."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"The residual stream through {self.of}"

    @property
    def summary(self) -> str:
        middle, added = self._middle(self.stream), self._middle(self.added)
        most = int(added.argmax())
        return (
            f"The stream's length grows from {float(middle[0]):.2f} to {float(middle[-1]):.2f} (median over positions "
            f"after the first); {self.branches[most]} adds the longest vector, {float(added[most]):.2f}."
        )

    @property
    def how_to_read(self) -> str:
        return "Line: length of the stream after each step. Bars: length of what the step adds. Median over positions."

    def _middle(self, norms: Tensor) -> Tensor:
        return (norms[:, 1:] if norms.shape[1] > 1 else norms).median(dim=-1).values

    def rows(self) -> list[list[str]]:
        stream, added = self._middle(self.stream).tolist(), self._middle(self.added).tolist()
        first = self.stream[:, 0].tolist()
        columns = enumerate(zip(self.stages, stream, [0.0, *added], first, strict=True))
        lines = [[s, f"{n:.3f}", f"{a:.3f}" if i else "", f"{f:.3f}"] for i, (s, n, a, f) in columns]  # fmt: skip
        return [["stage", "median length", "added", "first token"], *lines]

    def _size(self) -> tuple[float, float]:
        return max(7.5, 0.42 * len(self.stages) + 3.9), 3.2

    def _draw(self, canvas: Canvas) -> None:
        axes, theme = canvas.axes(), canvas.theme
        stream, added = self._middle(self.stream).tolist(), self._middle(self.added).tolist()
        steps = range(len(stream))
        is_attention = [branch.startswith("attention") for branch in self.branches]
        for flag, colour, name in ((True, theme.lines[0], "attention adds"), (False, theme.lines[1], "MLP adds")):
            chosen = [i for i, value in enumerate(is_attention) if value == flag]
            axes.bar(
                [i + 1 for i in chosen], [added[i] for i in chosen], color=colour, alpha=0.75, width=0.6, label=name
            )
        axes.plot(steps, stream, marker="o", markersize=4, color=theme.ink, linewidth=1.6, label="the stream")
        if self.stream.shape[1] > 1:
            axes.plot(steps, self.stream[:, 0].tolist(), color=theme.muted, linewidth=1.2, linestyle="--",
                      label="the stream at the first token")  # fmt: skip
        axes.set_xticks(steps, [stage.removeprefix("after ") for stage in self.stages], rotation=90)
        axes.set(
            ylabel="Euclidean length",
            ylim=(0, 1.08 * float(max(*stream, float(self.stream[:, 0].max())))),
            xlabel="after this step",
        )
        axes.grid(axis="y", alpha=0.6)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7.5)


def residual_norms(run: "Run") -> ResidualNorms:
    """Lengths of the stream and of each branch."""
    view, layers = run.cache.view, range(run.model.config.num_layers)
    stages, branches = ["embeddings"], []
    streams, added, scales = [view(("resid_pre", 0))], [], []
    for layer in layers:
        stages += [f"after attention {layer}", f"after MLP {layer}"]
        branches += [f"attention {layer}", f"MLP {layer}"]
        streams += [view(("resid_mid", layer)), view(("resid_post", layer))]
        added += [view(("attn_out", layer)), view(("mlp_out", layer))]
        scales += [view(("scale", layer, "ln1")), view(("scale", layer, "ln2"))]
    scales.append(view("scale"))
    stream = torch.stack([value[0].float().norm(dim=-1) for value in streams])
    # |x|^2 = D (spread^2 - epsilon + mean^2): the norm layers have measured the same lengths.
    means = torch.stack([value[0].float().mean(dim=-1) for value in streams])
    spreads = torch.stack([value[0, :, 0].float() for value in scales])
    lengths = (streams[0].shape[-1] * (spreads.square() - LAYER_NORM_EPSILON + means.square())).clamp(min=0).sqrt()
    return ResidualNorms(
        run.label, run.tokens, stages, stream, branches,
        torch.stack([value[0].float().norm(dim=-1) for value in added]),
        Check("the lengths follow from the spreads that the norm layers divide by", difference(lengths, stream)),
    )  # fmt: skip
