"""`gpt2 scaling`: a family of sizes, the law they follow, and a larger run to test it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from gpt2.experiments.family import Outcome


@dataclass(frozen=True)
class Scaling:
    """Train a family of sizes, fit a scaling law with its uncertainty, predict a larger run, and train that to check.

    Stop it and call it again: it goes on.
    """

    text: Positional[tuple[str, ...]] = ()
    """Text files or folders; none: the bundled stories."""
    valid: tuple[str, ...] = ()
    """Validation text; none: a share of the documents is held out."""
    out: str = "scaling/family"
    """Folder for the runs, law.json and law.svg."""
    sizes: tuple[str, ...] = ("32x2", "48x2", "64x3", "96x3")
    """The family, WIDTHxLAYERS each: three or more."""
    check: str = "128x4"
    """A larger size: predicted first, trained then."""
    tokens_per_parameter: float = 2.0
    """Training tokens per parameter of every run; 20 is what Hoffmann et al. (2022) found best for large models."""
    seeds: int = 1
    """Runs of each size; with two or more the noise is measured, with one it is assumed."""
    vocab_size: int = 1024
    """Token ids, the same for all."""
    context_length: int = 128
    """Tokens of context, the same for all."""
    batch_size: int = 16
    """Sequences per optimizer step, the same for all."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 scaling`."""
    options = tyro.cli(Scaling, args=argv, prog="gpt2 scaling")
    from gpt2.errors import ConfigError
    from gpt2.experiments.family import Size, scale
    from gpt2.experiments.pictures import draw_law
    from gpt2.settings import TrainSettings

    if not options.tokens_per_parameter > 0 or options.seeds < 1:
        raise ConfigError("tokens_per_parameter and seeds must be above 0")
    base = TrainSettings.make(
        text=options.text, valid=options.valid, vocab_size=options.vocab_size, context_length=options.context_length,
        batch_size=options.batch_size, device=options.device, evals=2,
    )  # fmt: skip
    outcome = scale(
        base, [Size.parse(size) for size in options.sizes], Size.parse(options.check), options.out,
        tokens_per_parameter=options.tokens_per_parameter, seeds=options.seeds,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    draw_law(outcome, Path(options.out) / "law.svg")
    print(json.dumps(outcome.to_json()) if options.json else "\n".join(_lines(outcome, options.out)))
    return 0


def _lines(outcome: "Outcome", out: str) -> list[str]:
    law, check = outcome.law, outcome.check
    found = law.parameters()
    value, low, high = outcome.predicted
    verdict = "inside" if outcome.holds else "OUTSIDE: the law does not reach so far"
    return [
        f"bits per byte = {law.floor:.4f} + {law.factor:.4f} * (C / {law.scale:.3g}) ^ -{law.exponent:.4f},  C = 6 N D",
        f"  floor     {found['floor'][0]:.4f}  (95%: {found['floor'][1]:.4f} to {found['floor'][2]:.4f})",
        f"  exponent  {found['exponent'][0]:.4f}  (95%: {found['exponent'][1]:.4f} to {found['exponent'][2]:.4f})",
        f"  runs like {check.size} scatter by {outcome.noise:.4f} around it",
        "",
        f"{check.size}, {check.compute:.3g} FLOPs: predicted {value:.4f} (95%: {low:.4f} to {high:.4f}), "
        f"measured {check.bits_per_byte:.4f}: {verdict}",
        f"{Path(out) / 'law.svg'}, {Path(out) / 'law.json'}",
    ]
