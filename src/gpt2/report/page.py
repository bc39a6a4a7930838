"""report.html: one file with everything about a run, no script, nothing from outside. Prints and fits a phone."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.files import atomic_write
from gpt2.report import findings
from gpt2.report.charts import Line, line_chart, number
from gpt2.report.curve import read_metrics

_SAMPLE = re.compile(r"^## Step ([\d,]+), bits per byte ([\d.]+)\n+(.*?)(?=^## Step |\Z)", re.MULTILINE | re.DOTALL)


def write_report(folder: RunFolder) -> Path:
    """Write a run's report from the files that are in its folder; what is not there yet is left out.

    Args:
        folder: the run.

    Returns:
        The page, `training/report.html`.
    """
    records, found, environment = read_metrics(folder.metrics), _json(folder.evaluation), _json(folder.environment)
    name = folder.path.absolute().name
    sections = [
        _head(name, records, found),
        _curves(records, found),
        findings.evaluation(found),
        findings.stories(found),
        findings.memorization(found),
        _samples(_text(folder.samples)),
        _origin(folder, found, environment),
    ]
    style = (resources.files("gpt2.report") / "style.css").read_text(encoding="utf-8")
    with atomic_write(folder.report) as file:
        file.write(
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(name)}: training report</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(section for section in sections if section)
            + "\n</main>\n</body>\n</html>\n"
        )
    return folder.report


def _head(name: str, records: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    last = records[-1] if records else {}
    best = min((r["valid_bits_per_byte"] for r in records if "valid_bits_per_byte" in r), default=None)
    tiles: list[tuple[str, str]] = []
    if found:
        tiles.append((f"{found['bits_per_byte']:.4f}", "bits per byte of held-out text"))
        tiles.append((f"{found['perplexity']:.1f}", "perplexity per token"))
    elif best is not None:
        tiles.append((f"{best:.4f}", "best bits per byte so far"))
    if "parameters" in found:
        tiles.append((number(found["parameters"]), "parameters"))
    if last:
        tiles.append((number(last["tokens"]), f"tokens in {last['step']:,} steps"))
        tiles.append((_clock(last["seconds"]), "of training"))
    shape = f": {found['shape']}" if found else ""
    boxes = "".join(f"<li><b>{value}</b><span>{what}</span></li>" for value, what in tiles)
    return (
        f"<header>\n<h1>{escape(name)}</h1>\n<p class=soft>A GPT-2 trained from scratch{escape(shape)}.</p>\n"
        f"<ul class=tiles>{boxes}</ul>\n</header>"
    )


def _curves(records: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    def series(key: str) -> list[tuple[float, float]]:
        return [(r["tokens"], r[key]) for r in records if isinstance(r.get(key), (int, float))]

    loss = line_chart(
        [Line("training", series("loss"), "train"), Line("validation", series("valid_loss"), "valid", dots=True)],
        "tokens seen", "loss (nats per token)", levels=findings.levels(found), height=340,
    )  # fmt: skip
    if not loss:
        return ""
    small = [
        ("Validation, in bits per byte", Line("validation", series("valid_bits_per_byte"), "valid", dots=True)),
        ("Learning rate, as a share of its peak", Line("learning rate", series("lr_factor"), "plain")),
        ("Norm of the gradient", Line("norm", series("grad_norm"), "plain")),
        ("Tokens per second", Line("speed", series("tokens_per_second"), "plain")),
    ]
    charts = [
        (title, line_chart([line], "tokens seen", title, from_zero=line.kind == "plain", name_y=False))
        for title, line in small
    ]
    figures = "".join(f"<figure><h3>{title}</h3>{svg}</figure>" for title, svg in charts if svg)
    note = " Dashed: the same held-out text under models that only count." if findings.levels(found) else ""
    return (
        f"<h2>Training</h2>\n<figure>{loss}<figcaption><span class='key train'></span>training"
        f"<span class='key valid'></span>validation.{note}</figcaption></figure>\n<div class=pair>{figures}</div>"
    )


def _samples(text: str) -> str:
    """What the model wrote while it learned."""
    found = _SAMPLE.findall(text)
    if not found:
        return ""
    rows = "".join(
        f"<div class=step><div><b>Step {step}</b><small>{bits} bits per byte</small></div>"
        f"<p>{escape(sample.strip())}</p></div>"
        for step, bits, sample in _spread(found, 6)
    )
    return f"<h2>What it wrote while it learned</h2>\n{rows}"


def _origin(folder: RunFolder, found: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The plan, what happened, the machine, the settings, and how to do it again."""
    parts = ["<h2>How it was made</h2>"]
    if events := found.get("events"):
        parts.append("<h3>What happened</h3><ul>" + "".join(f"<li>{escape(event)}</li>" for event in events) + "</ul>")
    if plan := environment.get("plan"):
        parts.append(f"<h3>The plan</h3>{_rows(tuple(line.split(None, 1)) for line in plan if ' ' in line)}")
    if machine := environment.get("machine"):
        rows = [*machine.items(), *environment.get("versions", {}).items(), ("started", environment.get("started", ""))]
        parts.append(f"<h3>The machine</h3>{_rows(rows)}")
    parts.append("<h3>The same again</h3><pre>gpt2 train --config training/config.toml --out models/again</pre>")
    if settings := _text(folder.config):
        parts.append(
            f"<details><summary>Every setting: training/config.toml</summary><pre>{escape(settings)}</pre></details>"
        )
    return "\n".join(parts)


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    body = "".join(f"<tr><th>{escape(str(row[0]))}</th><td>{escape(str(row[1]))}</td></tr>" for row in rows)
    return f"<div class=scroll><table>{body}</table></div>"


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """The first, the last and some between."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _clock(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
