"""`gpt2 import`: other people's GPT-2s."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Import:
    """Take in a GPT-2 from elsewhere as a model folder, compared with transformers before success is printed."""

    source: Positional[str]
    """A Hugging Face GPT-2 folder, hf:owner/name or hf:owner/name@revision, nanoGPT's ckpt.pt, or a .pt of weights."""
    out: str | None = None
    """The new folder. None: models/NAME."""
    tokenizer: str | None = None
    """Folder with tokenizer.json, or with vocab.json and merges.txt. None: the source's own."""
    overwrite: bool = False
    """Replace a model that is there."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 import`."""
    options = tyro.cli(Import, args=argv, prog="gpt2 import")
    from gpt2.interop.importing import import_model

    done = import_model(options.source, out=options.out, tokenizer=options.tokenizer, overwrite=options.overwrite)
    print(f"{done.folder}: {done.config}")
    for note in done.notes:
        print(f"note: {note}")
    print(f"verified: by {done.verified}" if done.verified else f"written, not verified: {done.unverified}")
    return 0
