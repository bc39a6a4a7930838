"""`gpt2 report`: a run's report page, written anew."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Report:
    """Write training/report.html of a run: one file, no script, opens anywhere. Training writes it at its end; this
    writes it for a run that goes on or was stopped, or after a new evaluation.
    """

    model: Positional[str]
    """A run folder."""
    evaluate: bool = False
    """Examine the model anew; else what was found last is shown."""
    stories: int = 64
    """Stories to let the model write when it is examined; 0: none."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 report`."""
    options = tyro.cli(Report, args=argv, prog="gpt2 report")
    from gpt2.checkpoint import RunFolder
    from gpt2.errors import ConfigError, DataError
    from gpt2.manifest import renew_manifest
    from gpt2.report import write_report

    folder = RunFolder(options.model)
    if options.stories < 0:
        raise ConfigError(f"stories must be 0 or more, got {options.stories}")
    if not folder.config.is_file():
        raise DataError(
            f"{options.model} is no run folder: it has no training/config.toml. gpt2 evaluate takes any model"
        )
    if options.evaluate:
        _examine(folder, options)
    print(write_report(folder))
    renew_manifest(folder.path, "training/evaluation.json", "training/report.html")
    if not folder.evaluation.is_file():
        print(f"without an evaluation; with one: gpt2 report {options.model} --evaluate")
    return 0


def _examine(folder: "object", options: Report) -> None:
    from gpt2.checkpoint import RunFolder, load
    from gpt2.device import resolve_device
    from gpt2.evaluation import text
    from gpt2.evaluation.examine import examine
    from gpt2.report import record

    assert isinstance(folder, RunFolder)
    model, tokenizer = load(folder.path, device=resolve_device(options.device))
    corpus = text.corpus_of(folder.path)
    judged = text.held_out(folder.path, corpus)
    training = text.training_shards(corpus, tokenizer) if corpus else None
    record(folder.evaluation, model, examine(model, tokenizer, judged, training, stories=options.stories))
