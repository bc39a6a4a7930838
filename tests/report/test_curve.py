"""The loss curve as a picture and as text."""

import json
import xml.etree.ElementTree
from pathlib import Path

import pytest

from gpt2.cli import main
from gpt2.inspection.drawing.style import THEMES
from gpt2.report import draw_loss, loss_curve, read_metrics, text_curve


def metrics(folder: Path) -> Path:
    path = folder / "metrics.jsonl"
    records = []
    for step in range(1, 21):
        records.append({"step": step, "tokens": step * 1000, "loss": 6 - step / 10})
        if step % 5 == 0:
            records.append({"step": step, "tokens": step * 1000, "valid_loss": 6 - step / 11})
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return path


def test_curve_is_the_same_bytes_each_time_with_real_text(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "c.png"):
        draw_loss(metrics(tmp_path), tmp_path / name, "A run: 1.234 bits per byte")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    words = " ".join(xml.etree.ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    for word in ("A run: 1.234 bits per byte", "tokens seen (millions)", "loss (nats per token)", "validation"):
        assert word in words


def test_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    path = metrics(tmp_path)
    whole = read_metrics(path)
    path.write_text(path.read_text() + '{"step": 21, "tok')
    assert read_metrics(path) == whole
    assert read_metrics(tmp_path / "nowhere.jsonl") == []


def test_curve_of_text_falls_from_left_to_right(tmp_path: Path) -> None:
    lines = text_curve(metrics(tmp_path), width=30, height=5).splitlines()
    stars = [(row, line.index("*")) for row, line in enumerate(lines) if "*" in line]
    assert stars == sorted(stars)
    assert lines[0].split("|")[0].strip() == "5.55"
    assert "20,000 tokens" in lines[-1]
    assert text_curve(tmp_path / "nowhere.jsonl") == ""


def test_the_curve_has_the_numbers_and_every_theme(tmp_path: Path) -> None:
    curve = loss_curve(metrics(tmp_path), "A run")
    assert curve is not None
    assert curve.losses[0] == 5.9
    assert "from 5.90 to 4.00, the validation loss to 4.18" in curve.summary
    assert len(curve.rows()) == 1 + 20 + 4
    for theme in THEMES.values():
        svg = curve.svg(theme)
        assert theme.paper in svg
        assert curve.summary in svg


def test_plot_loss_writes_a_dark_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "training").mkdir()
    metrics(tmp_path / "training")
    out = tmp_path / "x.svg"
    assert main(["plot", "loss", str(tmp_path), "--theme", "dark", "-o", str(out), str(tmp_path / "x.json")]) == 0
    assert THEMES["dark"].paper in out.read_text()
    assert json.loads((tmp_path / "x.json").read_text())["kind"] == "loss"
    assert "validation loss to 4.18" in capsys.readouterr().out
    (tmp_path / "training" / "metrics.jsonl").write_text("")
    assert main(["plot", "loss", str(tmp_path)]) == 2
    assert "has no loss in it yet" in capsys.readouterr().err
