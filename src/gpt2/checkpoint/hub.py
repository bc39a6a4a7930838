"""Models of the Hugging Face Hub: `hf:owner/name`, or `hf:owner/name@revision` for one state of it."""

import re
from pathlib import Path

from gpt2.errors import CheckpointError, MissingExtraError

PREFIX = "hf:"

_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>.+))?", re.ASCII)


def is_hub_name(source: str | Path) -> bool:
    """Whether `source` names a model of the Hub."""
    return str(source).startswith(PREFIX)


def fetch(source: str) -> Path:
    """The folder, in the Hub client's cache, that holds the model's files; what is there is not fetched again.

    Safetensors are taken if there are any, else PyTorch's .bin.

    Raises:
        MissingExtraError: the extra `hub` is not installed.
        CheckpointError: not a name, no such model or revision, or no connection.
    """
    folder = _snapshot(source, [*_FILES, "model*.safetensors", "model.safetensors.index.json"])
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(_with_revision(source, folder), ["pytorch_model*.bin", "pytorch_model.bin.index.json"])
    return folder


def pinned(source: str) -> str:
    """`hf:owner/name` with the commit that `fetch` takes today, so that later runs take the same files.

    Raises:
        MissingExtraError, CheckpointError: as `fetch`.
    """
    if _COMMIT.fullmatch(source.partition("@")[2]):
        return source
    return _with_revision(source, _snapshot(source, ["config.json"]))


def _with_revision(source: str, folder: Path) -> str:
    name = source.partition("@")[0]
    return f"{name}@{folder.name}" if _COMMIT.fullmatch(folder.name) else source


def _snapshot(source: str, patterns: list[str]) -> Path:
    wanted = _NAME.fullmatch(source.removeprefix(PREFIX))
    if wanted is None:
        raise CheckpointError(
            f"{source!r} names no model of the Hugging Face Hub: write hf:owner/name, or hf:owner/name@revision"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            "hf: needs the Hub's client; install it with: pip install 'gpt2-from-scratch[hub]'"
        ) from error
    try:
        return Path(snapshot_download(wanted["name"], revision=wanted["revision"], allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"cannot fetch {source}: the Hugging Face Hub is out of reach, and its client has not fetched this before; "
            f"check the network, or give a folder"
        ) from error
    except Exception as error:  # the client's errors have no common base
        raise CheckpointError(f"cannot fetch {source} from the Hugging Face Hub: {error}") from error
