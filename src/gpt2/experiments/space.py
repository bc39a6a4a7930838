"""What a sweep tries: a TOML file, checked before anything is trained."""

import itertools
import math
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.errors import ConfigError, nearest
from gpt2.settings import TrainSettings

SAMPLERS = ("grid", "random", "tpe")
_KEYS = ("sampler", "trials", "seed", "base", "search")
_RANGE_KEYS = ("low", "high", "log", "step")
_NOT_IN_A_SWEEP = ("out", "resume", "overwrite", "plan")


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones if both ends are whole."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return all(isinstance(value, int) for value in (self.low, self.high))

    def draw(self, generator: random.Random) -> float:
        """A random number of the range."""
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
            return round(value) if self.is_whole else value
        if self.is_whole or self.step is not None:
            step = self.step or 1
            return self.low + step * generator.randrange(int((self.high - self.low) / step + 1e-9) + 1)
        return generator.uniform(self.low, self.high)


@dataclass(frozen=True)
class Space:
    """A sweep: what every trial shares, what is tried, how."""

    sampler: str
    trials: int | None
    seed: int
    base: dict[str, Any]
    search: dict[str, list[Any] | Range]

    @classmethod
    def read(cls, path: str | Path) -> "Space":
        """Read and check a TOML file; docs/evaluation.md describes it.

        Raises:
            ConfigError: the file is missing or damaged, or a setting is unknown or out of range.
        """
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the sweep {path} cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"the sweep {path} is not TOML: {error}") from error
        for key in table:
            if key not in _KEYS:
                raise ConfigError(f"{path} has the unknown key {key!r}.{nearest(key, _KEYS)}")
        search = {name: _values(name, value) for name, value in table.get("search", {}).items()}
        space = cls(
            table.get("sampler", "random"),
            table.get("trials"),
            table.get("seed", 0),
            dict(table.get("base", {})),
            search,
        )
        space._check(path)
        return space

    def points(self) -> Iterator[dict[str, Any]]:
        """Every trial of a grid, or `trials` random ones; "tpe" chooses as it goes."""
        if self.sampler == "grid":
            grid = itertools.product(*(values for values in self.search.values() if isinstance(values, list)))
            yield from (dict(zip(self.search, values, strict=True)) for values in grid)
        elif self.sampler == "random":
            for number in range(self.trials or 0):
                generator = random.Random(f"{self.seed}:{number}")  # more trials later: the first stay the same
                yield {
                    name: values.draw(generator) if isinstance(values, Range) else generator.choice(values)
                    for name, values in self.search.items()
                }

    def settings(self, point: dict[str, Any]) -> TrainSettings:
        """The settings of one trial."""
        return TrainSettings.layered(self.base, point)

    def _check(self, path: str | Path) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r}")
        if not self.search:
            raise ConfigError(f"{path} has nothing to try: give settings under [search], as lr = [0.01, 0.02]")
        for name in _NOT_IN_A_SWEEP:
            if name in self.base or name in self.search:
                raise ConfigError(f"{name} cannot stand in a sweep: every trial has a folder of its own")
        if self.sampler == "grid":
            ranges = [name for name, values in self.search.items() if isinstance(values, Range)]
            if ranges:
                raise ConfigError(f'a grid needs lists of values, {ranges[0]} is a range; or take sampler = "random"')
        elif not isinstance(self.trials, int) or self.trials < 1:
            raise ConfigError(f"sampler {self.sampler!r} needs trials, a whole number above 0; got {self.trials!r}")
        for name, values in self.search.items():
            for value in values if isinstance(values, list) else (values.low, values.high):
                self.settings({name: value})  # a wrong name or value is refused here, before any work


def _values(name: str, value: Any) -> list[Any] | Range:
    if isinstance(value, list) and value:
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"search.{name} must be a list of values or a range {{ low = .., high = .. }}; got {value!r}")
    for key in value:
        if key not in _RANGE_KEYS:
            raise ConfigError(f"search.{name} has the unknown key {key!r}.{nearest(key, _RANGE_KEYS)}")
    numbers = [value.get("low"), value.get("high")]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise ConfigError(f"search.{name} needs numbers low and high; got {value!r}")
    found = Range(**value)
    if not found.low < found.high or (found.log and found.low <= 0) or (found.step is not None and found.step <= 0):
        raise ConfigError(f"search.{name} must have low < high, step above 0, and low above 0 where log; got {value!r}")
    return found
