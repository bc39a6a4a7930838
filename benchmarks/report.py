"""Results kept as JSON, one file per row; a page and a picture made from them."""

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

from benchmarks.measure import Figure, Measured

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "assets" / "benchmarks.svg"

_HEAD = """# Benchmarks

Each table is one run: every entry in every round, in turns, on the same machine; medians, with quartiles in brackets.
Before anything is timed the entries' results are compared. *Ready* is the time until an entry can start, compiling and
warming up included. *Limit* is what the machine does at best, measured in the same rounds. A row that a peer wins is
shown as it is.

    gpt2 bench --help

![Each row's entries as a share of the best peer](assets/benchmarks.svg)
"""


def save(measured: Measured, machine: dict[str, str], command: str, folder: Path = RESULTS) -> Path:
    """Keep a row's figures with where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{measured.name}.json"
    record = {"date": date.today().isoformat(), "machine": machine, "command": command, "row": asdict(measured)}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[Measured, dict]:
    """A row back from its file, and the record around it."""
    record = json.loads(path.read_text(encoding="utf-8"))
    row = {**record["row"], "figures": [Figure(**figure) for figure in record["row"]["figures"]]}
    return Measured(**row), record


def table(measured: Measured) -> str:
    """A Markdown table, best first, with the ratio to the best peer."""
    timed = [figure for figure in measured.figures if figure.rounds]
    timed.sort(key=lambda figure: figure.median, reverse=measured.more_is_better)
    peer = next((figure.median for figure in timed if not figure.ours), None)
    lines = [f"| entry | {measured.unit} | of the best peer | ready, s |", "| --- | ---: | ---: | ---: |"]
    for figure in timed:
        low, high = figure.quartiles
        name = f"**{figure.name}**" if figure.ours else figure.name
        ratio = f"{figure.median / peer:.2f}" if peer else ""
        lines.append(
            f"| {name} | {number(figure.median)} ({number(low)} to {number(high)}) | {ratio} "
            f"| {figure.ready_seconds:.1f} |"
        )
    if measured.limit:
        limit = sorted(measured.limit)[len(measured.limit) // 2]
        lines.append(f"| *limit: {measured.limit_name}* | {number(limit)} | {limit / peer:.2f} | |" if peer else
                     f"| *limit: {measured.limit_name}* | {number(limit)} | | |")  # fmt: skip
    lines += [f"| {figure.name} | {figure.failed} | | |" for figure in measured.figures if figure.failed]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three or four figures."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_page(folder: Path = RESULTS, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Make the page and the picture from all results that there are."""
    records = [read(path) for path in sorted(folder.glob("*.json"))]
    parts = [_HEAD]
    for measured, record in records:
        machine = record["machine"]
        parts.append(
            f"## {measured.title}\n\n{table(measured)}\n\n{measured.settings}. Checked: {measured.checked}. "
            f"{max(len(f.rounds) for f in measured.figures)} rounds, {record['date']}, `{record['command']}`.\n"
            f"{machine['processor']}, {machine['memory']}; {machine['system']}; {machine['versions']}.\n"
        )
    page.write_text("\n".join(parts), encoding="utf-8")
    draw([measured for measured, _ in records], picture)


def draw(rows: list[Measured], picture: Path) -> None:
    """Bars: the best of ours and of the peers, as a ratio to the best peer, one pair per row."""
    import matplotlib
    from matplotlib.figure import Figure as Drawing

    rows = [row for row in rows if ratio(row)]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt2", "font.family": "sans-serif"}):
        drawing = Drawing(figsize=(8, 1 + 0.32 * len(rows)), layout="constrained")
        axes = drawing.add_subplot()
        values = [ratio(row) or 0.0 for row in rows]
        left = [
            value - 1 for value in values
        ]  # a bar begins at 1: to the right what is better, to the left what is worse
        bars = axes.barh([row.title for row in rows], left, left=1.0, color="#1f5fa8", height=0.6)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        axes.axvline(1.0, color="#333333", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.set_xlabel("times as good as the best peer (1: equal; logarithmic)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", labelsize=8)
        picture.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(picture, metadata={"Date": None})


def ratio(row: Measured) -> float | None:
    """How many times as good our best entry is as the best peer."""
    best = max if row.more_is_better else min
    ours = [figure.median for figure in row.figures if figure.ours and figure.rounds]
    peers = [figure.median for figure in row.figures if not figure.ours and figure.rounds]
    if not ours or not peers:
        return None
    return best(ours) / best(peers) if row.more_is_better else best(peers) / best(ours)
