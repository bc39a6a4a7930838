"""Metrics of a run, and its loss curve as a picture or as text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Result


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


@dataclass(frozen=True)
class LossCurve(Result):
    """Losses of a run, in nats per token, over the tokens it had seen."""

    kind = "loss"
    name: str
    tokens: list[int]
    """At the training losses."""
    losses: list[float]
    valid_tokens: list[int]
    """At the validations."""
    valid_losses: list[float]

    @property
    def title(self) -> str:
        return self.name

    @property
    def summary(self) -> str:
        train = f"the training loss goes from {self.losses[0]:.2f} to {self.losses[-1]:.2f}"
        valid = "there was no validation"
        if self.valid_losses:
            valid = f"the validation loss to {self.valid_losses[-1]:.2f}, at best {min(self.valid_losses):.2f}"
        return f"Over {self.tokens[-1]:,} tokens {train}, {valid} (nats per token)."

    @property
    def how_to_read(self) -> str:
        text = "Each point of the training loss is the mean of the steps since the one before it"
        return f"{text}; that of validation is over held-out documents." if self.valid_losses else f"{text}."

    def rows(self) -> list[list[str]]:
        valid = dict(zip(self.valid_tokens, self.valid_losses, strict=True))
        lines = [[f"{n:,}", f"{loss:.4f}", ""] for n, loss in zip(self.tokens, self.losses, strict=True)]
        lines += [[f"{n:,}", "", f"{loss:.4f}"] for n, loss in valid.items()]
        return [["tokens", "training", "validation"], *sorted(lines, key=lambda line: int(line[0].replace(",", "")))]

    def _size(self) -> tuple[float, float]:
        return 8.0, 4.2

    def _draw(self, canvas: Canvas) -> None:
        axes, theme = canvas.axes(), canvas.theme
        seen, judged = ([n / 1e6 for n in tokens] for tokens in (self.tokens, self.valid_tokens))
        axes.plot(seen, self.losses, color=theme.muted, alpha=0.7, linewidth=1, label="training")
        if judged:
            axes.plot(judged, self.valid_losses, color=theme.accent, linewidth=2, marker="o", markersize=4,
                      label="validation")  # fmt: skip
            axes.annotate(f"{self.valid_losses[-1]:.2f}", (judged[-1], self.valid_losses[-1]), xytext=(6, 0),
                          textcoords="offset points", color=theme.accent, va="center")  # fmt: skip
        axes.set(xlabel="tokens seen (millions)", ylabel="loss (nats per token)")
        low, high = min(self.losses + self.valid_losses), max(self.losses)
        axes.set_ylim(max(0.0, low - 0.3), min(high, low + 5.0) + 0.2)
        axes.margins(x=0.06)
        axes.grid(alpha=0.6)
        axes.legend(loc="upper right")


def loss_curve(metrics: Path, title: str) -> LossCurve | None:
    """The curve of a run's metrics.jsonl; None before its first record of a loss."""
    records = read_metrics(metrics)
    train = [(r["tokens"], r["loss"]) for r in records if "loss" in r]
    valid = [(r["tokens"], r["valid_loss"]) for r in records if "valid_loss" in r]
    if not train:
        return None
    columns = [[pair[i] for pair in pairs] for pairs in (train, valid) for i in (0, 1)]
    return LossCurve(title, *columns)


def draw_loss(metrics: Path, target: Path, title: str, theme: str = "light") -> None:
    """Write the curve, as SVG or PNG by the name's ending; nothing before the first loss.

    Args:
        metrics: a run's metrics.jsonl.
        target: the picture.
        title: a line above it.
        theme: "light", "dark" or "print".
    """
    curve = loss_curve(metrics, title)
    if curve is not None:
        curve.save(target, theme)


def text_curve(metrics: Path, width: int = 60, height: int = 10) -> str:
    """The validation losses as lines of text, for a terminal; empty with fewer than two of them."""
    points = [(r["tokens"], r["valid_loss"]) for r in read_metrics(metrics) if "valid_loss" in r]
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    rows = [[" "] * width for _ in range(height)]
    for x, y in points:
        column = round((width - 1) * x / points[-1][0])
        row = round((height - 1) * (high - y) / ((high - low) or 1.0))
        rows[row][column] = "*"
    labels = [f"{high:6.2f} |", *["       |"] * (height - 2), f"{low:6.2f} |"]
    lines = [label + "".join(row).rstrip() for label, row in zip(labels, rows, strict=True)]
    return "\n".join([*lines, "       +" + "-" * width, f"        validation loss over {points[-1][0]:,} tokens"])
