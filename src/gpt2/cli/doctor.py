"""`gpt2 doctor`: what this machine has, how fast it is, and whether it computes rightly."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Doctor:
    """Examine this machine: versions, measured peaks, and one forward and backward pass compared with the CPU."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 doctor`; status 1 if the device computes wrongly."""
    options = tyro.cli(Doctor, args=argv, prog="gpt2 doctor")
    from gpt2.doctor.examination import examine_machine, lines

    report = examine_machine(options.device)
    print(json.dumps(report, indent=2) if options.json else "\n".join(lines(report)))
    return 0 if report["passed"] else 1
