"""Settings: layers, types, ranges, TOML and back."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpt2.cli.train import parse
from gpt2.config import flatten_toml, preset_names
from gpt2.errors import ConfigError
from gpt2.settings import TrainSettings, read_toml


def test_later_layers_win_and_a_new_length_replaces_the_old(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[model]\nd_model = 96\nnum-heads = 3\n[optimization]\nepochs = 2\n")
    settings = TrainSettings.layered({"preset": "tinystories", "config": config}, {"num_heads": 6, "minutes": 3})
    flat = settings.flat()
    assert (flat["num_layers"], flat["d_model"], flat["num_heads"], flat["fraction"]) == (6, 96, 6, 0.1)
    assert (flat["minutes"], flat["epochs"]) == (3.0, None)


def test_command_line_over_file_over_preset(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("d_model = 96\nepochs = 2\n")
    settings = parse(
        ["a.txt", "b.txt", "--preset", "tinystories", "--config", str(config), "--steps", "9", "--from", "m"]
    )
    flat = settings.flat()
    assert flat["text"] == ("a.txt", "b.txt")
    assert (flat["d_model"], flat["num_layers"], flat["steps"], flat["epochs"]) == (96, 6, 9, None)
    assert flat["from_model"] == "m"


@pytest.mark.parametrize("preset", preset_names())
def test_toml_and_back(preset: str) -> None:
    settings = TrainSettings.layered({"preset": preset, "text": ['a "quoted" \\ näme.txt'], "lr": 1e-5, "out": "x"})
    assert TrainSettings.make(**flatten_toml(tomllib.loads(settings.to_toml("two\nlines")))) == settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_modle": 3}, "unknown setting 'd_modle'. Did you mean 'd_model'"),
        ({"dtype": "bfloat17"}, "Did you mean 'bfloat16'"),
        ({"d_model": "wide"}, "d_model must be of type int, got 'wide'"),
        ({"seed": True}, "seed must be of type int"),
        ({"minutes": 1, "steps": 3}, "give one of minutes, epochs and steps, not minutes and steps"),
        ({"minutes": -1}, "minutes must be above 0, got -1"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"warmup": 1.5}, r"warmup must lie in \[0, 1\)"),
        ({"resume": "a", "overwrite": True}, "does not go with overwrite"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSettings.make(**bad)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        read_toml(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("a = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml cannot be read: .*line 1"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "twice.toml").write_text("seed = 1\n[run]\nseed = 2\n")
    with pytest.raises(ConfigError, match="'seed' stands twice"):
        read_toml(tmp_path / "twice.toml")


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tinystories'"):
        TrainSettings.layered({"preset": "tinystory"})
