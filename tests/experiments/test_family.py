"""A small family, trained, fitted, predicted and checked; and taken up again."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt2.cli import main
from gpt2.errors import ConfigError
from gpt2.experiments.family import Size


def test_sizes() -> None:
    assert Size.parse("64x3") == Size(64, 3)
    assert (str(Size(48, 2)), Size(48, 2).num_heads, Size(96, 2).num_heads) == ("48x2", 3, 3)
    for text in ("64", "64x", "60x2", "64x0", "ax2", "-64x2"):
        with pytest.raises(ConfigError, match="WIDTHxLAYERS"):
            Size.parse(text)


def test_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "family"
    arguments = [
        "scaling", "--sizes", "16x1", "32x1", "48x1", "--check", "64x1", "--out", str(out), "--vocab-size", "320",
        "--context-length", "32", "--batch-size", "16", "--tokens-per-parameter", "0.5", "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [member["size"] for member in found["members"]] == ["16x1", "32x1", "48x1"]
    for member in [*found["members"], found["check"]]:
        model = json.loads((out / f"{member['size']}-seed0" / "training" / "evaluation.json").read_text())
        assert model["bits_per_byte"] == member["bits_per_byte"]
        assert model["parameters"] == member["parameters"]
        assert member["compute"] == 6 * member["parameters"] * member["tokens"]
        assert abs(member["tokens"] / member["parameters"] - 0.5) < 0.05
    losses = [member["bits_per_byte"] for member in [*found["members"], found["check"]]]
    assert losses == sorted(losses, reverse=True)
    predicted = found["predicted"]
    assert predicted["low"] < predicted["value"] < predicted["high"]
    assert found["holds"] == (predicted["low"] <= found["check"]["bits_per_byte"] <= predicted["high"])
    # The noise is what `gpt2 compare` assumes of as many steps: 0.5 divided by them, for the run held back.
    steps = found["check"]["tokens"] / (16 * 32)
    assert found["law"]["noise"] == pytest.approx(np.mean(losses[:-1]) * 0.5 / steps, rel=0.02)
    picture = (out / "law.svg").read_text()
    assert "training compute, 6 N D (FLOPs)" in picture
    assert json.loads((out / "law.json").read_text()) == found
    assert main(arguments) == 0  # nothing is trained again
    assert json.loads(capsys.readouterr().out) == found
    assert main([*arguments, "--vocab-size", "384"]) == 2
    assert "another family" in capsys.readouterr().err
    assert main([*arguments, "--check", "32x1"]) == 2
    assert "must be larger" in capsys.readouterr().err
