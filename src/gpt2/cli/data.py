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
    """Examine text before training: documents, lengths, copies, damage; or a folder of token shards, byte for byte."""

    files: Files = ()
    """Text files or folders; none: the bundled stories. A folder that `prepare` wrote is compared with its hashes."""
    tokenizer: Path | None = None
    """A tokenizer.json, or a model folder that has one: count its tokens too, and what its context cuts."""
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

    if shards := [path for name in command.files for path in _shard_folders(Path(name))]:
        return _check_shards(shards, command)
    tokenizer = context = None
    if command.tokenizer is not None:
        from gpt2.model.pretrained import read_config
        from gpt2.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(command.tokenizer)
        context = (
            read_config(command.tokenizer).context_length if (command.tokenizer / "config.json").exists() else None
        )
    report = examine(
        command.files, valid=command.valid, split=command.split, text_field=command.text_field,
        tokenizer=tokenizer, context_length=context,
    )  # fmt: skip
    if command.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        print("\n".join(report.lines()))
    return 2 if report.encoding_problems else 0


def _shard_folders(folder: Path) -> list[Path]:
    return [path for path in (folder, folder / "train", folder / "valid") if (path / "index.json").is_file()]


def _check_shards(folders: list[Path], command: Check) -> int:
    """Reads every byte; what is damaged is an error that names the file."""
    from gpt2.data import TokenShards

    found = [(folder, TokenShards.open(folder)) for folder in folders]
    if command.json:
        keys = ("num_documents", "num_tokens", "num_bytes", "vocab_size", "fingerprint")
        print(json.dumps([{"folder": str(f), **{key: getattr(shards, key) for key in keys}} for f, shards in found]))
        return 0
    for folder, shards in found:
        print(
            f"{folder}: {shards.num_documents:,} documents, {shards.num_tokens:,} ids, all below "
            f"{shards.vocab_size:,}; every file has the SHA-256 of the index"
        )
    return 0


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
