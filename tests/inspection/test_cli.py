"""`gpt2 inspect` and `gpt2 plot`, as a user runs them."""

import copy
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gpt2 import GPT2, Tokenizer
from gpt2.cli import main
from gpt2.inspection import run
from gpt2.inspection.views import VIEWS


@pytest.fixture(scope="module")
def folder(model: GPT2, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "mine"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_the_overview_shows_the_numbers_of_the_run(
    folder: Path, model: GPT2, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder), "The little dog"]) == 0
    text = capsys.readouterr().out
    looked = run(model, tokenizer, "The little dog")
    assert f"{looked.loss:.2f} nats" in text
    assert "11 of 11 identities hold" in text
    assert looked.odds().tokens[0] in text


@pytest.mark.parametrize(
    "options",
    [
        ["lens"], ["attribution", "--unit", "head", "--target", "."], ["attention", "--layer", "1", "--head", "2"],
        ["head", "--layer", "-1", "--position", "2"], ["residual"], ["positions"], ["neighbours", "--target", "."],
        ["patch", "--corrupt", "The big dog", "--target", ".", "--against", "!"], ["dependency"], ["checks"],
        ["odds", "--temperatures", "0.5", "2"],
    ],
    ids=lambda options: options[0],
)  # fmt: skip
def test_views_print_json_and_save_pictures(
    options: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "x.svg"
    prompt = "The red dog" if options[0] == "patch" else "The little dog"
    assert main(["inspect", str(folder), prompt, "--view", *options, "--json", "--out", str(picture)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["check"] is None or shown["check"]["ok"]
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert root.findtext("{http://www.w3.org/2000/svg}desc") == shown["summary"]


def test_a_model_in_16_bits_is_computed_in_32(
    model: GPT2, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.deepcopy(model).half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "The little dog"]) == 0
    assert "11 of 11 identities hold" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--view", "parameters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 2 * model.num_parameters()


def test_an_ablation_is_named_and_changes_the_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for parts in ([], ["--ablate", "1.2", "mlp.0"]):
        assert main(["inspect", str(folder), "The little dog", "--view", "surprise", "--json", *parts]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] != losses[1]


def test_plot_writes_every_file_that_is_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "residual", str(folder), "Once", "-o", "a.svg", "b.png", "c.json", "--theme", "dark"]) == 0
    assert "check:" in capsys.readouterr().out
    assert Path("a.svg").read_text().startswith("<svg")
    assert Path("b.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(Path("c.json").read_text())["kind"] == "residual_norms"
    assert main(["plot", "residual", str(folder)]) == 0
    assert Path("residual.svg").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["plot", "lens", "FOLDER", "--out", "x.pdf"], "x.pdf must end in .svg, .png or .json"),
        (["plot", "loss", "FOLDER"], "has no training/metrics.jsonl"),
        (["plot", "lens", "nowhere"], "nowhere"),
        (["inspect", "FOLDER", "x", "--out", "x.svg"], "choose one to save with --view"),
        (["inspect", "FOLDER", "x", "--view", "neighbours"], "--target"),
        (["inspect", "FOLDER", "x", "--view", "patch"], "--corrupt"),
        (["inspect", "FOLDER", "x", "--view", "attention", "--layer", "9"], "no layer 9: they go from 0 to 2"),
        (["inspect", "FOLDER", "x", "--ablate", "9.9"], "no layer 9: they go from 0 to 2"),
        (["inspect", "FOLDER", "x", "--ablate", "mpl.0"], "has no value called 'mpl.0'"),
        (["inspect", "FOLDER", "x", "--view", "attention", "--head", "1"], "head 1 of which layer?"),
        (["inspect", "FOLDER", "x", "--view", "lens", "--k", "0"], "k must be 1 or more, got 0"),
        (["inspect", "FOLDER", "x", "--view", "lens", "--out", "x.pdf"], "x.pdf must end in .svg, .png or .json"),
        (["inspect", "FOLDER", ""], "two tokens or more, for the first is not predicted; give a longer text"),
        (["inspect", "FOLDER", "x", "--view", "attribution", "--target", ""], "'' is not one token but nothing\n"),
        (["inspect", "FOLDER", "x", "--view", "attribution", "--target", "a", "--against", "a"], "the same token, 'a'"),
        (["inspect", "FOLDER", "a" * 900, "--view", "lens"], "the model's context holds 48"),
        (["inspect", "FOLDER", "x", "--view", "timeline"], "neither snapshots nor checkpoints"),
    ],
)
def test_mistakes_are_one_line_with_the_way_out(
    command: list[str], message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main([str(folder) if word == "FOLDER" else word for word in command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_options_and_the_table_name_every_view() -> None:
    from typing import get_args

    from gpt2.cli.inspect import VIEW_NAMES
    from gpt2.cli.plot import KINDS

    assert list(get_args(VIEW_NAMES)) == ["overview", *VIEWS]
    assert list(get_args(KINDS)) == ["loss", *VIEWS]
    page = (Path(__file__).parents[2] / "docs" / "inspection.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page.split("## Views")[1].split("## ")[0], re.MULTILINE) == list(VIEWS)
