"""`gpt2 bench`: measure against the field's tools. The measurements live in a checkout, beside the package."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt2.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Run `python -m benchmarks` of the checkout: the current folder's, else the one this package runs from."""
    places = (Path.cwd(), Path(__file__).resolve().parents[3])
    root = next((place for place in places if (place / "benchmarks" / "measure.py").is_file()), None)
    if root is None:
        raise UserError(
            f"there is no benchmarks/ in {places[0]}: the measurements are not part of the installed package; "
            f"run this in a checkout of the repository"
        )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "benchmarks", *argv]
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:  # it got the signal too, and ends by itself
        process.wait()
        raise
