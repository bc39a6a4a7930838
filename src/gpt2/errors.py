"""What can go wrong, by whose fault. Every message names the thing, the value and the way out."""

import difflib
from collections.abc import Iterable


class GPT2Error(Exception):
    """Base of every error raised on purpose. `exit_code` is the status of the command line."""

    exit_code = 1


class UserError(GPT2Error):
    """Bad input: an option, a file, a model folder. Status 2, one line, no traceback."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting that is unknown, out of range, or does not fit another setting."""


class DataError(UserError, ValueError):
    """Text or token data that is missing, empty, damaged or too small."""


class TokenizerError(UserError, ValueError):
    """A tokenizer file that is missing, damaged or not a byte-level BPE."""


class CheckpointError(UserError):
    """A model folder or checkpoint that is missing, damaged or does not match its configuration."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency that is not installed; the message says what to install."""


class DivergedError(GPT2Error):
    """Training left the finite numbers."""

    exit_code = 3


class StoppedError(GPT2Error):
    """A signal asked the run to stop; everything was saved first. Status 128 + signal (130, 143).

    Args:
        what: "stopped at step 5".
        command: goes on from there.
        signal_number: of the signal.
    """

    def __init__(self, what: str, command: str, signal_number: int) -> None:
        super().__init__(f"{what}, everything is saved; go on with: {command}")
        self.what, self.signal_number = what, signal_number
        self.exit_code = 128 + signal_number

    def by(self, command: str) -> "StoppedError":
        """The same for who began the run by another command."""
        return StoppedError(self.what, command, self.signal_number)


def nearest(name: str, options: Iterable[str]) -> str:
    """`" Did you mean 'd_model'?"`, or an empty string when nothing is close."""
    match = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""
