"""Charts as inline SVG for the report: real text, coloured by the page's CSS, no script.

Sizes are in the units of the view box, 640 wide; the page scales it to the screen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 86, 18, 16, 54
_MOST_POINTS = 500


@dataclass(frozen=True)
class Line:
    """A series of a line chart."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str
    """CSS class: "train", "valid" or "plain"."""
    dots: bool = False


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    levels: Sequence[tuple[str, float]] = (),
    from_zero: bool = False,
    name_y: bool = True,
    height: int = 300,
) -> str:
    """A line chart; `levels` are dashed horizontal lines with names. Empty without points.

    Args:
        lines: what to draw.
        x_label: name and unit of the horizontal axis.
        y_label: of the vertical one.
        levels: named heights.
        from_zero: begin at zero; single spikes then leave the frame.
        name_y: write `y_label` beside the axis; else it only stands in the description for those who cannot see.
        height: 640 being the width.
    """
    shown = [Line(line.name, thin(line.points), line.kind, line.dots) for line in lines if line.points]
    if not shown:
        return ""
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points if math.isfinite(y)]
    low, high = _y_range(shown, ys, [value for _, value in levels], from_zero)
    x_ticks, y_ticks = ticks(0.0, max(xs) or 1.0), ticks(low, high)
    frame = _Frame(0.0, max(xs) or 1.0, min(low, y_ticks[0]) if from_zero else low, high, height)
    parts = [frame.grid(x_ticks, y_ticks, x_label, y_label if name_y else "")]
    named = [(escape(name), frame.y(value)) for name, value in levels if low <= value <= high]
    right = WIDTH - _RIGHT
    parts += [f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>' for _, y in named]
    # An inner svg cuts off what leaves the frame.
    box = f"{_LEFT} {_TOP - 4} {WIDTH - _LEFT - _RIGHT + 4} {height - _BOTTOM - _TOP + 8}"
    left, top, width, tall = box.split()
    parts.append(f'<svg x="{left}" y="{top}" width="{width}" height="{tall}" viewBox="{box}">')
    parts += [*(frame.line(line) for line in shown), "</svg>"]
    # Names stand over the curves, with a rim in the card's colour, and where they cover the least of them.
    path = [point for line in shown for point in frame.path(line)]
    parts += [_level_name(name, y, path, height - _BOTTOM) for name, y in named]
    summary = "; ".join(
        f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in shown
    )
    return _svg("".join(parts), height, f"{y_label} over {x_label}: {summary}")


def bar_chart(rows: Sequence[tuple[str, float, str]], unit: str, interval: tuple[float, float] | None = None) -> str:
    """Horizontal bars from zero: (name, value, CSS class); `interval` is drawn on the first."""
    bar, gap, left = 24, 12, 150
    height = len(rows) * (bar + gap) + 34
    scale = (WIDTH - left - 80) / max(value for _, value, _ in rows)
    parts = []
    for place, (name, value, kind) in enumerate(rows):
        y = place * (bar + gap) + 6
        parts.append(f'<text x="{left - 10}" y="{y + bar / 2 + 5}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{value * scale:.1f}" height="{bar}" rx="3"/>')
        end = max(value, interval[1] if interval and not place else 0) * scale
        parts.append(f'<text class="value" x="{left + end + 8:.1f}" y="{y + bar / 2 + 5}">{value:.3f}</text>')
    if interval:
        middle, (a, b) = 6 + bar / 2, (left + interval[0] * scale, left + interval[1] * scale)
        parts.append(
            f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - 6}v12M{b:.1f} {middle - 6}v12"/>'
        )
    parts.append(f'<text class="axis" x="{left}" y="{height - 10}">{escape(unit)}</text>')
    return _svg("".join(parts), height, f"{unit}: " + ", ".join(f"{name} {value:.3f}" for name, value, _ in rows))


def histogram(groups: Sequence[tuple[str, Sequence[float], str]], x_label: str, mark: tuple[str, float]) -> str:
    """Shares of each group's values per bin, side by side; `mark` is a named vertical line."""
    most = max(max((max(values) for _, values, _ in groups if len(values)), default=1.0), mark[1])
    width = max(1, math.ceil((most + 1) / 24))
    bins = math.ceil((most + 1) / width)
    shares = [
        [sum(v // width == b for v in values) / max(1, len(values)) for b in range(bins)] for _, values, _ in groups
    ]
    height, top = 240, max(max(share) for share in shares)
    frame = _Frame(0.0, bins * width, 0.0, top * 1.08, height)
    parts = [frame.grid(ticks(0, bins * width), ticks(0, top * 1.08, 3), x_label, "share of texts", percent=True)]
    slot = (frame.x(width) - frame.x(0)) / len(groups)
    for place, ((_, _, kind), share) in enumerate(zip(groups, shares, strict=True)):
        for b, value in enumerate(share):
            x, y = frame.x(b * width) + place * slot, frame.y(value)
            bar = max(0.5, slot - 1)
            if value:
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{frame.y(0) - y:.1f}"/>'
                )
    x = frame.x(mark[1])
    parts.append(f'<line class="level" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{frame.y(0):.1f}"/>')
    side = ("end", -6) if x > WIDTH / 2 else ("start", 6)
    parts.append(
        f'<text class="level" x="{x + side[1]:.1f}" y="{_TOP + 12}" text-anchor="{side[0]}">{escape(mark[0])}</text>'
    )
    return _svg("".join(parts), height, f"distribution of {x_label}: " + ", ".join(name for name, _, _ in groups))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], about `count` of them."""
    span = (high - low) or 1.0
    raw = span / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def number(value: float) -> str:
    """Three or four significant digits, thousands with a k or M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """The axes: from data to the view box."""

    x0: float
    x1: float
    y0: float
    y1: float
    height: int

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / ((self.x1 - self.x0) or 1) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self.height - _BOTTOM - (value - self.y0) / ((self.y1 - self.y0) or 1) * (self.height - _BOTTOM - _TOP)

    def grid(
        self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str, percent: bool = False
    ) -> str:
        parts = []
        for value in y_ticks:
            y, text = self.y(value), f"{100 * value:.0f}\u202f%" if percent else number(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for value in x_ticks:
            x = self.x(value)
            y, text = self.height - _BOTTOM + 20, number(value)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{self.height - 8}" text-anchor="middle">{escape(x_label)}</text>'
        )
        parts.append(
            f'<text class="axis" transform="translate(16 {(self.height - _BOTTOM + _TOP) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
        return "".join(parts)

    def path(self, line: Line) -> list[tuple[float, float]]:
        """Places on a line, close together."""
        ends = [(self.x(x), self.y(y)) for x, y in line.points if math.isfinite(y)]
        steps = [k / 16 for k in range(16)]
        between = [(a + k * (c - a), b + k * (d - b)) for (a, b), (c, d) in pairwise(ends) for k in steps]
        return [*between, *ends[-1:]]

    def line(self, line: Line) -> str:
        points = [(x, y) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        parts = [f'<polyline class="{line.kind}" points="{path}"/>']
        if line.dots:
            parts += [
                f'<circle class="{line.kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.5">'
                f"<title>{number(y)}</title></circle>"
                for x, y in points
            ]
        return "".join(parts)


def _level_name(name: str, y: float, path: Sequence[tuple[float, float]], bottom: float) -> str:
    """The name of a level: above or below it, on the right or the left."""

    def covered(place: tuple[float, float, str]) -> int:
        x, base, anchor = place
        left = x - 9 * len(name) if anchor == "end" else x
        return sum(left - 4 < a < left + 9 * len(name) + 4 and base - 14 < b < base + 4 for a, b in path)

    sides = ((WIDTH - _RIGHT - 4.0, "end"), (_LEFT + 8.0, "start"))
    places = [(x, base, anchor) for x, anchor in sides for base in (y - 5, y + 16) if base < bottom - 2]
    x, base, anchor = min(places, key=covered)
    return f'<text class="level" x="{x:g}" y="{base:.1f}" text-anchor="{anchor}">{name}</text>'


def _y_range(
    lines: Sequence[Line], ys: Sequence[float], levels: Sequence[float], from_zero: bool
) -> tuple[float, float]:
    """What is worth seeing: the steep beginning of a loss, and single spikes, may leave the frame."""
    if from_zero:
        ordered = sorted(ys)
        return 0.0, 1.08 * min(ordered[-1], 2.5 * ordered[int(0.95 * (len(ordered) - 1))] or 1.0) or 1.0
    end = min(line.points[-1][1] for line in lines)
    lowest = min(ys)
    whole = [y for line in lines if line.dots for _, y in line.points]
    reach = max([lowest + 0.6 * (max(ys) - lowest), *whole, *(level for level in levels if level < max(ys))])
    return lowest - 0.05 * (reach - end), reach + 0.05 * (reach - lowest)


def _svg(body: str, height: float, summary: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(summary, quote=True)}">'
        f"<title>{escape(summary)}</title>{body}</svg>"
    )
