"""`gpt2 verify-resume`: proves on this machine that resuming is exact."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class VerifyResume:
    """Train a few steps of a run twice, once killed and resumed in between, and compare every bit; keeps nothing."""

    model: Positional[str]
    """The folder of a run."""
    steps: int | None = None
    """How many; none: as many as take about ten seconds."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 verify-resume`; status 1 if resuming is not exact."""
    options = tyro.cli(VerifyResume, args=argv, prog="gpt2 verify-resume")
    from gpt2.training.verification import verify_resume

    verdict = verify_resume(options.model, options.steps, say=lambda line: print(line, flush=True))
    print("\n".join(verdict.lines()))
    return 0 if verdict.exact else 1
