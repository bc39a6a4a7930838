"""The report page, the card and the charts: whole, offline, and safe with any text."""

import html.parser
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.checkpoint import RunFolder
from gpt2.cli import main
from gpt2.device import examine
from gpt2.report import write_card, write_environment, write_report
from gpt2.report.charts import Line, bar_chart, line_chart, thin, ticks

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=y>'
FIGURE = {"value": 0.25, "interval": [0.2, 0.3]}
FOUND: dict[str, Any] = {
    "parameters": 1_088_256, "shape": "4 layers", "events": ["step 12: the loss rose, gone back to step 8"],
    "text": "100 documents of a.txt", "documents": 100, "bytes": 70_000, "tokens": 20_000, "loss": 3.0,
    "perplexity": math.exp(3), "bits_per_byte": 1.2365, "bits_per_byte_interval": [1.21, 1.26],
    "baselines": {"uniform": 3.1, "unigram": 2.4, "bigram": 1.6, "gzip": 2.9}, "baselines_counted_on": "the training text",
    "stories": {
        "samples": 32, "temperature": 0.8, "max_tokens": 256, "pairs": 90, "examples": [HOSTILE, "Once."],
        "model": {"ended": FIGURE, "words": {"value": 141.2, "interval": None}}, "held_out": {"ended": FIGURE},
        "grammar": {"a or an": 0.97, "all": 0.97}, "grammar_bigram": {"a or an": 1.0, "all": 1.0},
    },
    "memorization": {
        "samples": [0, 9, 12, 30], "held_out": [0, 8, 10, 11], "threshold": 16, "recited": 0.25, "passage": HOSTILE,
        "verdict": "recites now and then",
    },
}  # fmt: skip
VOID = {"meta", "img", "br", "line", "circle", "rect", "path", "polyline"}


class Checker(html.parser.HTMLParser):
    """Every element is closed in order, nothing runs, nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href", "srcset"), (name, value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "a<b>model")
    run.training.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for step in range(1, 41):
        records.append({
            "step": step, "tokens": step * 1000, "seconds": step / 2, "loss": 3 + 5 / step, "lr_factor": 1 - step / 40,
            "grad_norm": 1.0, "tokens_per_second": 2000 + step,
        })  # fmt: skip
        if step % 10 == 0:
            valid = {"valid_loss": 3.1 + 5 / step, "valid_bits_per_byte": 1.2 + 2 / step}
            records.append({"step": step, "tokens": step * 1000, "seconds": step / 2, **valid})
    run.metrics.write_text("\n".join(map(json.dumps, records)) + "\n")
    run.samples.write_text(
        "# Samples during training\n\n"
        + "".join(f"## Step {n}, bits per byte 1.{n}\n\n{HOSTILE}\n\n" for n in range(10, 50, 4))
    )
    run.config.write_text('[data]\ntext = ["a<b.txt"]\n')
    run.evaluation.write_text(json.dumps(FOUND))
    write_environment(run.environment, ["  text      1 MB", "  because   <it> is so"], examine("cpu", "float32", 1))
    return run


def read(run: RunFolder) -> Checker:
    text = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org)|url\(|@import", text)
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def test_it_is_one_offline_page_that_escapes_every_text(folder: RunFolder) -> None:
    page = read(folder)
    assert page.words.count(HOSTILE) >= 6  # samples over time, an example, the passage: shown, not run
    for words in (
        "a<b>model", "1.2365", "1.2100 to 1.2600", "this model", "bigram", "141", "25 %", "97 %", "Recites now and then",
        "gone back to step 8", "<it> is so", "gpt2 train --config", "a<b.txt", "threads",
    ):  # fmt: skip
        assert words in page.words, words


def test_the_same_files_give_the_same_bytes(folder: RunFolder) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


@pytest.mark.parametrize("missing", ["evaluation", "environment", "samples", "metrics", "config"])
def test_what_is_not_there_is_left_out(folder: RunFolder, missing: str) -> None:
    getattr(folder, missing).unlink()
    assert "a<b>model" in read(folder).words


def test_a_model_without_stories_or_training_text(folder: RunFolder) -> None:
    some = {k: v for k, v in FOUND.items() if k not in ("stories", "memorization")}
    folder.evaluation.write_text(json.dumps({**some, "bits_per_byte_interval": None}))
    assert "Does it recite" not in read(folder).words
    folder.evaluation.write_text('{"bits_per')  # cut off by a crash
    assert "How well it predicts" not in read(folder).words


def test_the_baselines_stand_in_the_losss_unit(folder: RunFolder) -> None:
    """A model that needs as many bits as the bigram model has its loss on the bigram's line."""
    text = write_report(folder).read_text(encoding="utf-8")
    chart = text[text.index("<svg") : text.index("</figure>")]
    at = float(re.findall(r'<line class="level"[^>]*y1="([\d.]+)"', chart)[-1])
    nats = 1.6 * math.log(2) * 70_000 / 20_000
    grid = {float(value): float(y) - 4 for y, value in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', chart)}
    (a, ya), (b, yb) = list(grid.items())[:2]
    assert at == pytest.approx(ya + (nats - a) / (b - a) * (yb - ya), abs=0.3)


def test_a_levels_name_keeps_clear_of_the_curve() -> None:
    """A curve that ends just above the level: its name goes below, or where the curve is not."""
    chart = line_chart(
        [Line("loss", [(0, 3.0), (40, 1.4), (100, 1.1)], "valid")], "tokens", "loss", levels=[("bigram", 1.06)]
    )
    found = re.search(r'<text class="level" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">bigram<', chart)
    polyline = re.search(r'<polyline class="valid" points="([^"]+)"', chart)
    assert found is not None
    assert polyline is not None
    x, y = float(found[1]), float(found[2])
    left, right = (x - 60, x) if found[3] == "end" else (x, x + 60)
    ends = np.array([[float(n) for n in pair.split(",")] for pair in polyline[1].split()])
    for part in np.linspace(0, 1, 200):
        for a, b in pairwise(ends):
            at = a + part * (b - a)
            assert not (left < at[0] < right and y - 12 < at[1] < y + 3)


def test_the_card_is_read_by_the_hubs_own_client(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    write_card(tmp_path / "README.md", "mine", {"Parameters": "1"}, "Once upon\na time", "training/config.toml", FOUND)
    data = hub.ModelCard.load(tmp_path / "README.md").data
    figures = {result.metric_type: result.metric_value for result in data.eval_results}
    assert figures == {"bits_per_byte": 1.2365, "perplexity": pytest.approx(math.exp(3), rel=1e-5), "loss": 3.0}
    assert data.library_name == "transformers"
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "> Once upon\n> a time" in card
    assert "| Parameters | 1 |" in card
    assert "recites now and then" in card
    assert "gpt2 train --config training/config.toml" in card


def test_ticks_are_round_and_thinning_keeps_the_mean() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(1.23, 1.31) == pytest.approx([1.24, 1.26, 1.28, 1.3])
    points = [(float(i), float(i % 7)) for i in range(3500)]
    few = thin(points)
    assert len(few) == 500
    assert sum(y for _, y in few) / 500 == pytest.approx(3.0)
    assert line_chart([Line("a", [], "train")], "x", "y") == ""
    assert "NaN" not in line_chart([Line("a", [(0, 1), (1, math.nan), (2, 3)], "train")], "x", "y").upper().replace(
        "NAN<", ""
    )
    assert bar_chart([("a", 1.0, "model"), ("b", 2.0, "other")], "unit", (0.9, 1.1)).count("<rect") == 2


def test_the_command(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder.path)]) == 0
    assert capsys.readouterr().out.strip() == str(folder.report)
    assert main(["report", str(folder.path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err
