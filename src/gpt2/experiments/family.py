"""`gpt2 scaling`: a family of sizes, the law that their losses follow, and a larger run to test it.

Every run sees the same number of tokens per parameter, the same tokenizer, batches and held-out documents; so one
number, the compute 6 N D of Kaplan et al. (2020) for N parameters and D tokens, says how large a run is.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import GPT2Config
from gpt2.errors import CheckpointError, ConfigError
from gpt2.evaluation.compare import seed_noise
from gpt2.evaluation.scaling_law import Noise, ScalingLaw
from gpt2.experiments.member import train_member
from gpt2.files import write_json
from gpt2.model.flops import count_parameters
from gpt2.settings import TrainSettings

Say = Callable[[str], None]

_TRIPLE = ("value", "low", "high")


@dataclass(frozen=True)
class Size:
    """A member of the family."""

    d_model: int
    num_layers: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """From "64x3": width and layers.

        Raises:
            ConfigError: it does not read so.
        """
        try:
            width, layers = (int(part) for part in text.lower().split("x"))
        except ValueError:
            width = layers = 0
        if width < 16 or width % 16 or layers < 1:
            raise ConfigError(f"a size is WIDTHxLAYERS with a width that 16 divides, such as 64x3; got {text!r}")
        return cls(width, layers)

    @property
    def num_heads(self) -> int:
        """Heads of 32 or 16 numbers."""
        return self.d_model // 32 if self.d_model % 32 == 0 else self.d_model // 16

    def __str__(self) -> str:
        return f"{self.d_model}x{self.num_layers}"


@dataclass(frozen=True)
class Member:
    """A finished run of the family."""

    size: str
    seed: int
    parameters: int
    tokens: int
    compute: float
    """6 N D, in FLOPs."""
    bits_per_byte: float


@dataclass(frozen=True)
class Outcome:
    """The family, its law, and how the law did on the run it had not seen."""

    members: list[Member]
    law: ScalingLaw
    check: Member
    predicted: tuple[float, float, float]
    """Value, low and high of the 95 % interval for a run."""

    @property
    def noise(self) -> float:
        """Standard deviation of runs like the one held back."""
        return float(self.law.noise(np.array([self.check.compute]))[0])

    @property
    def holds(self) -> bool:
        """Whether the run that was held back fell into the interval."""
        return self.predicted[1] <= self.check.bits_per_byte <= self.predicted[2]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "members": [asdict(member) for member in self.members],
            "law": {
                "form": "floor + factor * (compute / scale) ** -exponent",
                "factor": self.law.factor, "scale": self.law.scale, "noise": self.noise,
                **{name: dict(zip(_TRIPLE, found, strict=True)) for name, found in self.law.parameters().items()},
            },
            "check": asdict(self.check),
            "predicted": dict(zip(_TRIPLE, self.predicted, strict=True)),
            "holds": self.holds,
        }  # fmt: skip


def scale(
    base: TrainSettings, sizes: Sequence[Size], check: Size, folder: str | Path, *, tokens_per_parameter: float,
    seeds: int, say: Say,
) -> Outcome:  # fmt: skip
    """Train the family, fit the law to all but the largest, predict that, and train it.

    Runs that are finished are not made again; one that was stopped goes on.

    Args:
        base: text, vocabulary, context, batch: what all share.
        sizes: at least three.
        check: larger than all of them.
        folder: for the runs, `law.json` and `law.svg`.
        tokens_per_parameter: training tokens per parameter of each run.
        seeds: runs of each size.
        say: told of each run.

    Raises:
        ConfigError: too few sizes, or the run to check with is not the largest.
        CheckpointError: the folder holds runs of another family.
    """
    if len(set(sizes)) < 3:
        raise ConfigError(f"a law needs three sizes or more, got {len(set(sizes))}")
    if _parameters(base, check) <= max(_parameters(base, size) for size in sizes):
        raise ConfigError(f"the run to check with must be larger than every other; {check} is not")
    root = Path(folder)
    members = []
    for size in sizes:
        for seed in range(seeds):
            members.append(_member(base, size, seed, root, tokens_per_parameter, say))
    noise = _noise(members, lambda compute: _steps_of(base, compute, tokens_per_parameter))
    law = ScalingLaw.fit(np.array([m.compute for m in members]), np.array([m.bits_per_byte for m in members]), noise)
    compute = _compute(base, check, tokens_per_parameter)
    low, high = law.interval(compute)[:, 0]
    predicted = (float(law(compute)[0]), float(low), float(high))
    say(f"predicted for {check}: {predicted[0]:.4f} bits per byte ({predicted[1]:.4f} to {predicted[2]:.4f})")
    outcome = Outcome(members, law, _member(base, check, 0, root, tokens_per_parameter, say), predicted)
    write_json(root / "law.json", outcome.to_json())
    return outcome


def _noise(members: Sequence[Member], steps_of: Callable[[float], float]) -> Noise:
    """What seeds differ by; where there is one seed, what `compare` assumes of runs of so many steps."""
    groups = [[m.bits_per_byte for m in members if m.size == size] for size in {m.size for m in members}]
    if all(len(group) > 1 for group in groups):
        measured = float(np.sqrt(np.mean([np.var(group, ddof=1) for group in groups])))
        return lambda compute: np.full(len(compute), measured)
    loss = float(np.mean([m.bits_per_byte for m in members]))
    return lambda compute: np.array([loss * seed_noise(round(steps_of(c))) for c in compute])


def _member(base: TrainSettings, size: Size, seed: int, root: Path, ratio: float, say: Say) -> Member:
    """Train one member, go on with it, or find it done."""
    folder = root / f"{size}-seed{seed}"
    steps = _steps(base, size, ratio)
    wanted = {"size": str(size), "seed": seed, "steps": steps, "settings": _identity(base)}
    record = folder / "member.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        if stored["wanted"] != wanted:
            raise CheckpointError(f"{root} holds runs of another family ({folder}); give this one another --out")
        return Member(**stored["member"])
    tokenizer = root / "tokenizer.json"  # the first one's serves all
    settings = base.changed(
        d_model=size.d_model, num_layers=size.num_layers, num_heads=size.num_heads, steps=steps, minutes=None,
        epochs=None, seed=seed, out=str(folder), tokenizer=str(tokenizer) if tokenizer.is_file() else None,
    )  # fmt: skip
    trained = train_member(folder, lambda: settings, "gpt2 scaling")
    if not tokenizer.is_file():
        trained.tokenizer.save(tokenizer)
    parameters, tokens = _parameters(base, size), steps * _tokens_per_step(base)
    score = trained.score.bits_per_byte
    member = Member(str(size), seed, parameters, tokens, 6.0 * parameters * tokens, score)
    write_json(record, {"wanted": wanted, "member": asdict(member)})
    say(f"{size} seed {seed}: {parameters:,} parameters, {tokens:,} tokens: {score:.4f} bits per byte")
    return member


def _identity(base: TrainSettings) -> dict[str, Any]:
    """What all members share, for a folder to be recognised by."""
    flat = base.flat()
    names = ("text", "valid", "fraction", "vocab_size", "context_length", "batch_size", "optimizer", "lr", "dropout")
    return {name: list(flat[name]) if isinstance(flat[name], tuple) else flat[name] for name in names}


def _config(base: TrainSettings, size: Size) -> GPT2Config:
    return GPT2Config(
        vocab_size=base.model.vocab_size or 0, context_length=base.model.context_length or 0, d_model=size.d_model,
        num_layers=size.num_layers, num_heads=size.num_heads,
    )  # fmt: skip


def _parameters(base: TrainSettings, size: Size) -> int:
    return count_parameters(_config(base, size))


def _tokens_per_step(base: TrainSettings) -> int:
    return (base.optimization.batch_size or 0) * (base.model.context_length or 0)


def _steps(base: TrainSettings, size: Size, ratio: float) -> int:
    return max(1, round(ratio * _parameters(base, size) / _tokens_per_step(base)))


def _compute(base: TrainSettings, size: Size, ratio: float) -> float:
    return 6.0 * _parameters(base, size) * _steps(base, size, ratio) * _tokens_per_step(base)


def _steps_of(base: TrainSettings, compute: float, ratio: float) -> float:
    """Of a member with so much compute: C = 6 N D and D = ratio N."""
    return math.sqrt(compute * ratio / 6) / _tokens_per_step(base)
