"""What a sweep's file may say."""

import random
from pathlib import Path

import pytest

from gpt2.errors import ConfigError
from gpt2.experiments.space import Range, Space


def space(tmp_path: Path, text: str) -> Space:
    (tmp_path / "a.toml").write_text(text)
    return Space.read(tmp_path / "a.toml")


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    found = space(
        tmp_path, 'sampler = "grid"\n[base]\npreset = "demo"\n[search]\nlr = [0.1, 0.2]\nd_model = [32, 64, 96]\n'
    )
    points = list(found.points())
    assert len(points) == 6
    assert {(p["lr"], p["d_model"]) for p in points} == {(a, b) for a in (0.1, 0.2) for b in (32, 64, 96)}
    settings = found.settings(points[0])
    assert (settings.optimization.lr, settings.model.d_model, settings.model.vocab_size) == (0.1, 32, 4096)


def test_random_points_lie_in_range_and_stay_when_more_are_wanted(tmp_path: Path) -> None:
    text = (
        "trials = {n}\n[search]\nlr = {{ low = 1e-3, high = 0.1, log = true }}\nnum_layers = {{ low = 1, high = 4 }}\n"
    )
    ten, twenty = (list(space(tmp_path, text.format(n=n)).points()) for n in (10, 20))
    assert twenty[:10] == ten
    assert all(0.001 <= p["lr"] <= 0.1 and p["num_layers"] in (1, 2, 3, 4) for p in twenty)
    assert len({p["lr"] for p in twenty}) == 20
    assert sum(p["lr"] < 0.01 for p in twenty) > 4  # log: half of them, not a tenth
    assert {Range(0.0, 0.4, step=0.2).draw(random.Random(i)) for i in range(30)} == {0.0, 0.2, 0.4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to try"),
        ('sampler = "magic"\n[search]\nlr = [1]', "sampler must be one of"),
        ("[search]\nlr = [0.1]", "needs trials"),
        ("trials = 3\n[search]\nlearning = [0.1]", "unknown setting 'learning'"),
        ("trials = 3\n[search]\nlr = [-0.1]", "lr must be above 0"),
        ("trials = 3\n[search]\nlr = { low = 1, hihg = 2 }", "Did you mean 'high'"),
        ("trials = 3\n[search]\nlr = { low = 2, high = 1 }", "low < high"),
        ("trials = 3\n[search]\nlr = { low = 0, high = 1, log = true }", "above 0 where log"),
        ("trials = 3\n[search]\nlr = 4", "list of values or a range"),
        ('sampler = "grid"\n[search]\nlr = { low = 1, high = 2 }', "a grid needs lists"),
        ("trials = 3\nbse = 1\n[search]\nlr = [1]", "Did you mean 'base'"),
        ('trials = 3\n[base]\nout = "x"\n[search]\nlr = [1]', "out cannot stand in a sweep"),
        ("trials = [", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(tmp_path, text)
