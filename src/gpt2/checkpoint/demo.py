"""`demo`: a small trained model that comes with the package, so that there is one to try and to look into at once."""

import logging
from importlib import resources
from pathlib import Path

NAME = "demo"

_log = logging.getLogger(__name__)


def demo_folder() -> Path:
    """The folder of the model that comes with the package: weights in 16 bits, tokenizer, card, figures."""
    return Path(str(resources.files("gpt2") / "demo_model"))


def is_demo(source: str | Path) -> bool:
    """Whether `source` stands for the model of the package: it is "demo", and no path has that name."""
    return str(source) == NAME and not Path(source).exists()


def located(source: str | Path) -> Path:
    """`source` as a path; "demo" is the model of the package, unless there is such a path."""
    if (note := which_demo(source)) is not None:
        _log.info(note)
    return demo_folder() if is_demo(source) else Path(source)


def which_demo(source: str | Path) -> str | None:
    """Which of the two `demo` means here, as a sentence; None: `source` is another name."""
    if str(source) != NAME:
        return None
    if is_demo(source):
        return "demo is the model that comes with the package; a path of that name would come first"
    return f"demo is {Path(source).resolve()}, not the model that comes with the package"
