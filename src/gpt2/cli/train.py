"""`gpt2 train`: text in, a trained model folder out."""

import argparse
import os
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from gpt2.config import preset_names
from gpt2.errors import GPT2Error
from gpt2.settings import DataSettings, ModelSettings, OptimizationSettings, RunSettings, TrainSettings


@dataclass(frozen=True)
class _Data(DataSettings):
    text: Positional[tuple[str, ...]] = ()
    """Text files or folders (.txt, .txt.gz, .jsonl); none: the bundled stories."""


@dataclass(frozen=True)
class _Run(RunSettings):
    from_model: Annotated[str | None, arg(name="from")] = None
    """Fine-tune this model, with its own tokenizer."""


@dataclass(frozen=True)
class Train:
    """Train a GPT-2 on text. What is left open is chosen for the text, the machine and the time, and told."""

    preset: Annotated[str | None, arg(help=f"Begin from these settings: {', '.join(preset_names())}.")] = None
    config: str | None = None
    """A TOML file of settings, such as training/config.toml of a run."""
    data: _Data = field(default_factory=_Data)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    run: _Run = field(default_factory=_Run)
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open a page in the browser that shows the run while it goes on: curve, samples, speed."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 train`."""
    first = os.environ.get("RANK", "0") == "0"
    settings = parse(argv) if first else _parse_silently(argv)
    from gpt2.training.inputs import default_out
    from gpt2.training.run import run

    watching = nullcontext()
    if first and not settings.run.plan and _below().parse_known_args(argv)[0].watch:
        from gpt2.serving.watch import watched

        watching = watched(settings.run.resume or settings.run.out or default_out(settings))
    with watching:
        run(settings)
    return 0


def parse(argv: Sequence[str]) -> TrainSettings:
    """Settings of a command line: options over the --config file over the --preset."""
    below, _ = _below().parse_known_args(argv)
    flat = TrainSettings.layered(
        {name: value for name, value in vars(below).items() if value and name != "watch"}
    ).flat()
    default = Train(
        below.preset,
        below.config,
        _Data(**{name: flat[name] for name in DataSettings.__dataclass_fields__}),
        ModelSettings(**{name: flat[name] for name in ModelSettings.__dataclass_fields__}),
        OptimizationSettings(**{name: flat[name] for name in OptimizationSettings.__dataclass_fields__}),
        _Run(**{name: flat[name] for name in RunSettings.__dataclass_fields__}),
    )
    chosen = tyro.cli(OmitArgPrefixes[Train], args=argv, default=default, prog="gpt2 train")
    groups = (chosen.data, chosen.model, chosen.optimization, chosen.run)
    options = {name: value for group in groups for name, value in vars(group).items()}
    given = {name: value for name, value in options.items() if value != flat[name]}
    return TrainSettings.layered(flat, given)


def _parse_silently(argv: Sequence[str]) -> TrainSettings:
    """For torchrun's other processes: what is wrong is wrong in all of them, and rank 0 says it."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        try:
            return parse(argv)
        except GPT2Error as error:
            raise SystemExit(error.exit_code) from error


def _below() -> argparse.ArgumentParser:
    """Finds what is no setting of the run: the two options that say what the others' defaults are, and --watch."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--config")
    parser.add_argument("--watch", action="store_true")
    return parser
