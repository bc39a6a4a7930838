"""Metrics of a run, and its loss curve as a picture or as text."""

import json
from pathlib import Path
from typing import Any

from gpt2.files import atomic_write

_TRAIN_COLOUR, _VALID_COLOUR = "#9aa7b8", "#1f5fa8"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def draw_loss(metrics: Path, target: Path, title: str) -> None:
    """Draw training and validation loss over the tokens seen, as SVG or PNG by the name's ending.

    Args:
        metrics: a run's metrics.jsonl.
        target: the picture.
        title: a line above it.
    """
    import matplotlib
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    records = read_metrics(metrics)
    train = [(r["tokens"] / 1e6, r["loss"]) for r in records if "loss" in r]
    valid = [(r["tokens"] / 1e6, r["valid_loss"]) for r in records if "valid_loss" in r]
    if not train:
        return
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt2", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*zip(*train, strict=True), color=_TRAIN_COLOUR, linewidth=1, label="training")
        if valid:
            axes.plot(
                *zip(*valid, strict=True),
                color=_VALID_COLOUR,
                linewidth=2,
                marker="o",
                markersize=4,
                label="validation",
            )
            x, y = valid[-1]
            axes.annotate(
                f"{y:.2f}",
                (x, y),
                xytext=(6, 0),
                textcoords="offset points",
                color=_VALID_COLOUR,
                va="center",
            )
        axes.set(xlabel="tokens seen (millions)", ylabel="loss (nats per token)", title=title)
        low, high = min(y for _, y in train + valid), max(y for _, y in train)
        axes.set_ylim(max(0.0, low - 0.3), min(high, low + 5.0) + 0.2)
        axes.margins(x=0.06)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")
        kind = target.suffix.lstrip(".")
        with atomic_write(target, "wb") as file:
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})


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
