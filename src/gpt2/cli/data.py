"""`gpt2 data`: fetch, examine and tokenise text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from gpt2.errors import ConfigError

Files = Positional[tuple[str, ...]]


@dataclass(frozen=True)
class TextOptions:
    """How files become documents."""

    valid: tuple[str, ...] = ()
    """Files or folders for validation; none: some documents are held out."""
    split: Literal["auto", "paragraph"] = "auto"
    """paragraph: in files without <|endoftext|>, blank lines part documents."""
    text_field: str = "text"
    """The key of the text in .jsonl files."""


@dataclass(frozen=True)
class Download:
    """Fetch a dataset from the Hugging Face Hub; an interrupted download goes on where it ended."""

    name: Positional[str]
    """tinystories (2.2 GB) or tinystories-v2 (GPT-4's stories only)."""
    out: Path = Path("data")
    """Folder for the files."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""


@dataclass(frozen=True)
class Check(TextOptions):
    """Examine text before training: documents, sizes, duplicates, bad UTF-8."""

    files: Files = ()
    """Text files or folders; none: the bundled stories."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class Prepare(TextOptions):
    """Tokenise text into shards, so that training starts at once."""

    files: Files = ()
    """Text files or folders; none: the bundled stories."""
    tokenizer: Path | None = None
    """A tokenizer.json, or a model folder that has one."""
    vocab_size: int | None = None
    """Train a tokenizer of this size on the text instead."""
    save_tokenizer: Path | None = None
    """Where to write the trained tokenizer."""
    fraction: float = 1.0
    """Use only this first part of the documents."""
    valid_fraction: float = 0.05
    """Share of the documents to hold out for validation."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """replace: put U+FFFD where the text is not UTF-8 and go on."""
    cache: Path | None = None
    """Folder for the shards; default: $GPT2_CACHE, else the user's cache folder."""
    workers: int | None = None
    """Processes; default: as many as help."""


Command = (
    Annotated[Download, subcommand("download")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Prepare, subcommand("prepare")]
)


def main(argv: list[str]) -> int:
    """Run `gpt2 data ARGV`; the exit status.

    Raises:
        UserError: bad input.
        SystemExit: help was asked for (0) or the arguments are wrong (2).
    """
    command = tyro.cli(Command, prog="gpt2 data", description=__doc__, args=argv)  # type: ignore[call-overload]
    if isinstance(command, Download):
        return _download(command)
    return _check(command) if isinstance(command, Check) else _prepare(command)


def _download(command: Download) -> int:
    from gpt2.data.download import download
    from gpt2.files import human_bytes

    for path in download(command.name, command.out, revision=command.revision):
        print(f"{path}  {human_bytes(path.stat().st_size)}")
    return 0


def _check(command: Check) -> int:
    from gpt2.data.check import examine

    report = examine(command.files, valid=command.valid, split=command.split, text_field=command.text_field)
    if command.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        print("\n".join(report.lines()))
    return 2 if report.encoding_problems else 0


def _prepare(command: Prepare) -> int:
    if (command.tokenizer is None) == (command.vocab_size is None):
        raise ConfigError("give --tokenizer PATH, or --vocab-size N to train one on the text")
    from gpt2.data import prepare_corpus, survey
    from gpt2.files import human_bytes
    from gpt2.tokenizer import Tokenizer

    corpus = survey(
        command.files,
        valid=command.valid,
        fraction=command.fraction,
        valid_fraction=command.valid_fraction,
        split=command.split,
        text_field=command.text_field,
        encoding_errors=command.encoding_errors,
        cache=command.cache,
    )
    if command.tokenizer is not None:
        tokenizer = Tokenizer.load(command.tokenizer)
    else:
        tokenizer = Tokenizer.train(corpus.training_texts(), command.vocab_size or 0)
    if command.save_tokenizer is not None:
        tokenizer.save(command.save_tokenizer)
        print(f"tokenizer  {command.save_tokenizer}")
    prepared = prepare_corpus(corpus, tokenizer, cache=command.cache, workers=command.workers)
    for name, shards in (("train", prepared.train), ("valid", prepared.valid)):
        print(
            f"{name}  {shards.num_documents:,} documents, {shards.num_tokens:,} ids, "
            f"{human_bytes(shards.num_bytes)}, {shards.num_bytes / shards.num_tokens:.2f} bytes per id"
        )
    for note in prepared.notes:
        print(f"* {note}")
    print(f"{'found' if prepared.cached else 'written'}  {prepared.train.folder.parent}")
    return 0
