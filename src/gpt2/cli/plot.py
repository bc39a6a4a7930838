"""`gpt2 plot`: the pictures of `gpt2 inspect`, and a run's loss curve, as files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from gpt2.cli.inspect import Looking, ask, look, require_endings

if TYPE_CHECKING:
    from gpt2.inspection.result import Result

KINDS = Literal[
    "loss", "checks", "surprise", "odds", "lens", "attribution", "attention", "head", "residual", "ablation", "patch",
    "kinds", "induction", "dependency", "parameters", "neighbours", "words", "positions", "timeline",
]  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """Draw a model's inside, or a run's loss, as SVG or PNG."""

    kind: Positional[KINDS]
    """What to draw: loss, or a view of gpt2 inspect."""
    model: Positional[str]
    """A run folder; but for loss and timeline any model will do."""
    prompt: Positional[str | None] = None
    """The text, for views that read one; none: "Once upon a time"."""
    options: Annotated[Looking, tyro.conf.arg(name="")] = field(default_factory=Looking)
    out: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-o"])] = ()
    """Files to write, .svg, .png or .json; none: KIND.svg here."""
    theme: Literal["light", "dark", "print"] = "light"
    """Colours for a light page, a dark one, or paper."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 plot`."""
    options = tyro.cli(Plot, args=argv, prog="gpt2 plot")

    files = options.out or (f"{options.kind}.svg",)
    require_endings(files)
    if options.kind == "loss":
        result = _loss(options.model)
    else:
        question = ask(options.model, options.prompt, options.kind, options.options)
        (result,) = look(question, [options.kind])
    for file in files:
        result.save(file, options.theme)
    print(result.summary)
    if result.check is not None:
        print(f"check: {result.check}")
    print("\n".join(f"saved {file}" for file in files))
    return 0


def _loss(model: str) -> "Result":
    from gpt2.checkpoint import RunFolder
    from gpt2.errors import DataError
    from gpt2.report import loss_curve

    metrics = RunFolder(model).metrics
    if not metrics.is_file():
        raise DataError(f"{model} has no training/metrics.jsonl: only a run that was trained here has a loss curve")
    curve = loss_curve(metrics, f"Loss of {Path(model).name}")
    if curve is None:
        raise DataError(f"{metrics} has no loss in it yet; a run writes its first within seconds of its first step")
    return curve
