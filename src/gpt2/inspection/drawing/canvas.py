"""A page with a title above, the check below, and the picture between; and the few shapes that views draw."""

import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gpt2.inspection.drawing.style import Theme, readable_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpt2.inspection.result import Result

# Up to this many rows or columns, thin lines part the cells of a matrix.
_LINES_UP_TO = 24
_LINE = 0.175  # inches
_CHARACTERS_PER_INCH = 14.3


class Canvas:
    """What a view draws on."""

    def __init__(self, figure: "Figure", theme: Theme) -> None:
        self.figure, self.theme = figure, theme

    def axes(self, rows: int = 1, columns: int = 1, **options: Any) -> Any:
        """One axes, or an array (rows, columns) of them."""
        return self.figure.subplots(rows, columns, squeeze=(rows, columns) == (1, 1), **options)

    def matrix(
        self,
        axes: "Axes",
        values: Tensor,
        *,
        signed: bool = False,
        top: float | None = None,
        root: bool = False,
        lines: bool = True,
        visible: Tensor | None = None,
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        cells: Sequence[Sequence[str]] | None = None,
        bar: str | None = None,
    ) -> None:
        """A coloured matrix, row 0 on top.

        Args:
            axes: where.
            values: (rows, columns); NaN is left blank.
            signed: zero is the middle of the colours; otherwise their beginning.
            top: value of the last colour; None: the largest there is.
            root: colour by the square root, which shows small values too.
            lines: part the cells of a small matrix by thin lines.
            visible: bool of the same shape; the rest is shown as what cannot be.
            rows: labels, if they fit.
            columns: labels, if they fit.
            cells: text of each cell.
            bar: what the colours mean, with the unit; a colour bar tells it.
        """
        from matplotlib.colors import Normalize, PowerNorm

        table = values.detach().float().cpu()
        finite = table[table.isfinite()]
        top = top or (float(finite.abs().max()) if len(finite) else 1.0) or 1.0
        scale = PowerNorm(0.5, 0.0, top) if root else Normalize(-top if signed else 0.0, top)
        colours = self.theme.signed() if signed else self.theme.ramp()
        data = table.numpy().copy()
        shown = colours(scale(data.clip(-top, top)))
        if visible is not None:
            from matplotlib.colors import to_rgba

            shown[~visible.cpu().numpy()] = to_rgba(self.theme.hidden)
        shown[table.isnan().numpy()] = (0.0, 0.0, 0.0, 0.0)
        self._paint(axes, shown, lines)
        self._label(axes, table.shape, rows, columns)
        for i, line in enumerate(cells or ()):
            for j, text in enumerate(line):
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=readable_on(shown[i][j]))
        if bar is not None:
            self.colour_bar(axes, scale, colours, bar)

    def colour_bar(self, axes: "Axes | Sequence[Axes]", scale: Any, colours: Any, label: str) -> None:
        """A bar that tells which colour means which value."""
        from matplotlib.cm import ScalarMappable

        bar = self.figure.colorbar(
            ScalarMappable(scale, colours), ax=axes, shrink=0.85, aspect=22, pad=0.02, label=label
        )
        bar.outline.set_visible(False)  # pyright: ignore
        bar.solids.set_rasterized(False)  # pyright: ignore
        bar.solids.set_edgecolor("face")  # pyright: ignore

    def _paint(self, axes: "Axes", colours: Any, lines: bool) -> None:
        height, width = colours.shape[:2]
        # One small image: sharp in every viewer at "none", and a hundredth of the bytes of as many shapes.
        axes.imshow(colours, interpolation="none", aspect="auto")
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.spines[:].set_visible(False)
        if lines and max(height, width) <= _LINES_UP_TO:  # not the paper's colour: a cell near zero has it, too
            style: dict[str, Any] = {"color": self.theme.grid, "linewidth": 0.6, "clip_on": False}
            axes.hlines([i - 0.5 for i in range(height + 1)], -0.5, width - 0.5, **style)
            axes.vlines([j - 0.5 for j in range(width + 1)], -0.5, height - 0.5, **style)
        axes.tick_params(length=0)

    def stairs(self, axes: "Axes", time: int, corners: Sequence[tuple[int, int]] = ((0, 0),)) -> None:
        """Lines between the past and the future of attention patterns, whose faintest cells look like the future.

        Args:
            axes: with the patterns' matrix.
            time: rows and columns of each pattern.
            corners: row and column of each one's first cell.
        """
        from matplotlib.collections import LineCollection

        lines = [[(j + 0.5, i - 0.5), (j + time - 0.5, i + time - 1.5)] for i, j in corners]
        axes.add_collection(LineCollection(lines, colors=self.theme.muted, linewidths=0.5), autolim=False)

    def _label(self, axes: "Axes", shape: Any, rows: Sequence[str] | None, columns: Sequence[str] | None) -> None:
        for axis, count, labels in ((axes.yaxis, shape[0], rows), (axes.xaxis, shape[1], columns)):
            if labels is None:
                continue
            step = 1 if len(labels) <= 64 else -(-len(labels) // 32)
            axis.set_ticks(range(0, count, step), list(labels)[::step])
        if columns is not None and max((len(label) for label in columns), default=0) > 2 and len(columns) > 6:
            axes.tick_params(axis="x", rotation=90)

    def bars(self, axes: "Axes", labels: Sequence[str], values: Sequence[float], texts: Sequence[str], *,
             colours: Sequence[str] | None = None,
             intervals: Sequence[tuple[float, float]] | None = None) -> None:  # fmt: skip
        """Horizontal bars from zero, the first on top, each with its value as text and perhaps an interval."""
        theme = self.theme
        chosen = colours or [theme.accent if value >= 0 else theme.second for value in values]
        axes.barh(range(len(values)), values, color=chosen, height=0.72)
        lows = [low for low, _ in intervals or ()]
        highs = [high for _, high in intervals or ()]
        if intervals:
            axes.hlines(range(len(values)), lows, highs, color=theme.ink, linewidth=1.0)
        span = max([*values, *highs, 0.0]) - min([*values, *lows, 0.0]) or 1.0
        for i, (value, text) in enumerate(zip(values, texts, strict=True)):
            right = value >= 0
            edge = max(value, highs[i] if highs else value) if right else min(value, lows[i] if lows else value)
            axes.text(edge + (0.012 if right else -0.012) * span, i, text, va="center", ha="left" if right else "right",
                      fontsize=7.5, color=theme.muted)  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(min([*values, *lows, 0.0]) - (0.16 * span if min(values, default=0) < 0 else 0.0),
                      max([*values, *highs, 0.0]) + 0.16 * span)  # fmt: skip
        axes.axvline(0, color=theme.muted, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.6)

    def end_labels(self, axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
        """Names at the ends of lines instead of a legend, pushed apart so that none covers another.

        Args:
            axes: with its limits set.
            ends: (x, y, name, colour) of each line's last point.
        """
        low, high = axes.get_ylim()
        gap, at = (high - low) * 0.06, low - 1e9
        for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
            at = max(y, at + gap)
            axes.annotate(name, (x, y), xytext=(x, at), textcoords="data", color=colour, va="center", fontsize=8,
                          annotation_clip=False)  # fmt: skip


def picture(result: "Result", theme: Theme) -> "Figure":
    """The whole page of a view."""
    import matplotlib
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    width, height = result._size()
    per_line = int(width * _CHARACTERS_PER_INCH)
    title = _lines(result.title, int(per_line * 0.72)) or [""]
    notes = _lines(result.how_to_read, per_line)
    foot = _lines(f"Check: {result.check}", per_line) if result.check else []
    top = _LINE * (1.35 * len(title) + len(notes)) + 0.22
    bottom = _LINE * len(foot) + (0.14 if foot else 0.02)
    total = height + top + bottom
    with matplotlib.rc_context(theme.settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # an SVG's viewer has more characters than matplotlib
        figure = Figure(figsize=(width, total))
        figure.set_layout_engine(
            "constrained", rect=(0, bottom / total, 1, height / total), w_pad=0.08, h_pad=0.05, wspace=0.04, hspace=0.06
        )  # fmt: skip
        y = 1 - 0.1 / total
        figure.text(0.1 / width, y, "\n".join(title), fontsize=11, weight="bold", va="top", linespacing=1.35)
        y -= _LINE * 1.35 * len(title) / total
        figure.text(0.1 / width, y, "\n".join(notes), fontsize=8.5, va="top", color=theme.muted, linespacing=1.3)
        figure.text(
            0.1 / width, 0.07 / total, "\n".join(foot), fontsize=7.5, va="bottom", color=theme.muted, linespacing=1.3
        )
        result._draw(Canvas(figure, theme))
    return figure


def _lines(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; "held-out" stays whole."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def alternative_text(result: "Result") -> str:
    """What a reader who does not see the picture is told."""
    return f"{result.title}. {result.summary}"
