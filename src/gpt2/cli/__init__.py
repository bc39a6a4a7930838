"""The `gpt2` command. Each subcommand is a file here, loaded only when it is used."""

import atexit
import errno
import gc
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from gpt2.errors import GPT2Error, nearest

COMMANDS = {
    "train": "text in, a trained model folder out",
    "generate": "continue a prompt",
    "evaluate": "how good a model is: bits per byte, stories, memorisation",
    "compare": "which of several models is better, and whether that is noise",
    "report": "a page with everything about a run",
    "sweep": "many short runs over a space of settings",
    "scaling": "a family of sizes, the law they follow, and a test of it",
    "inspect": "look inside a model, in the terminal",
    "plot": "draw a model's inside, or a run's loss",
    "serve": "an API that OpenAI's clients speak, and a page to look inside",
    "data": "fetch, examine and tokenise text",
    "export": "write a model for other programs, verified by them",
    "import": "take in a GPT-2 from Hugging Face or nanoGPT, verified",
    "doctor": "what this machine has, and whether it computes rightly",
    "verify-resume": "prove that a killed and resumed run gives the same bits",
    "bench": "measure speed against other tools",
}

# Full disk or quota, no permission, read-only: for the user to mend, not a fault of the program.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

_USAGE = "usage: gpt2 COMMAND ...    (gpt2 COMMAND --help tells its options)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; gives the exit status.

    0 done; 1 our fault; 2 the user's or a file's; 3 diverged; 130 and 143 stopped by a signal.
    """
    # Python searches all young objects for garbage after each 700 new ones; loading torch makes 166,000 that stay.
    gc.set_threshold(10_000)
    # Else it takes each of them apart at its end: 1.6 s, when the work is done.
    atexit.register(gc.freeze)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from gpt2 import __version__

        print(f"gpt2-from-scratch {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"gpt2: error: no command {name!r}.{nearest(name, COMMANDS)}\n{_USAGE}", file=sys.stderr)
        return 2
    warnings.formatwarning = _one_line
    try:
        return import_module(f"gpt2.cli.{name.replace('-', '_')}").main(rest)
    except GPT2Error as error:
        if str(error):  # of several processes one speaks
            print(f"gpt2: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe (head, less) has enough
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        print(f"gpt2: error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpt2: stopped", file=sys.stderr)
        return 130


def _one_line(message: Warning | str, *_: object) -> str:
    return f"gpt2: warning: {message}\n"


def _help() -> str:
    rows = "\n".join(f"  {name:<14} {what}" for name, what in COMMANDS.items())
    return f"GPT-2 from scratch: train, look inside, use.\n\n{_USAGE}\n\ncommands:\n{rows}"
