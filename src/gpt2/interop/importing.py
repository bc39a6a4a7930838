"""`gpt2 import`: anybody's GPT-2 as a model folder of ours, compared with transformers before success is claimed."""

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gpt2.checkpoint import RunFolder, load
from gpt2.checkpoint.hub import fetch, is_hub_name, pinned
from gpt2.checkpoint.load import require_fitting
from gpt2.errors import CheckpointError, MissingExtraError, UserError
from gpt2.files import sha256, write_json
from gpt2.interop import nanogpt, probes
from gpt2.interop.export import model_name
from gpt2.interop.parity import Limits, Parity, ParityError, compare
from gpt2.interop.readers import TransformersReader
from gpt2.interop.staging import staged
from gpt2.model import GPT2
from gpt2.model.weight_files import read_torch_file
from gpt2.tokenizer import Tokenizer

ORIGIN = "source.json"
"""Where the model came from: the source, with its commit if it is the Hub's, and hashes of the files written."""

_PROMPTS, _NEW_TOKENS = 8, 32

# The same weights computed by two programs in float32.
_LIMITS = Limits(1e-6, 1e-2)


@dataclass
class Imported:
    """What was imported, and what is known of it."""

    folder: Path
    config: str
    notes: list[str] = field(default_factory=list)
    verified: Parity | None = None
    unverified: str = ""
    """Why it could not be verified."""


def import_model(
    source: str, *, out: str | Path | None = None, tokenizer: str | None = None, overwrite: bool = False
) -> Imported:
    """Read a foreign GPT-2 and write it as a model folder.

    Args:
        source: a Hugging Face GPT-2 folder, hf:owner/name[@revision], a .pt of ours, or nanoGPT's ckpt.pt.
        out: the new folder; default models/NAME.
        tokenizer: folder with tokenizer.json, or vocab.json and merges.txt; default the source's own.
        overwrite: replace a model that is there.

    Raises:
        UserError: the source is no GPT-2, damaged, incomplete or not finite; nothing that was there is harmed.
        ParityError: transformers reads the source differently; nothing is written.
    """
    out = Path("models") / _name(source) if out is None else Path(out)
    if RunFolder(out).holds_a_run and not overwrite:
        raise UserError(f"{out} already holds a model; replace it with --overwrite, or choose another --out")
    if is_hub_name(source):
        source = pinned(source)
    path = fetch(source) if is_hub_name(source) else Path(source)
    model, own_tokenizer, is_nanogpt = _read(path, tokenizer)
    _require_finite(model, path)
    with staged(out, overwrite) as (work, refuse_if_taken):
        model.save_pretrained(work)
        if own_tokenizer is not None:
            own_tokenizer.save_pretrained(work, model_max_length=model.config.context_length)
        if path.is_dir() and (path / "README.md").is_file():
            shutil.copy(path / "README.md", work)
        files = {file.name: sha256(file) for file in sorted(work.iterdir())}
        write_json(work / ORIGIN, {"source": source if is_hub_name(source) else str(path.absolute()), "sha256": files})
        refuse_if_taken()
        imported = Imported(out, _describe(model))
        _verify(imported, path if path.is_dir() else work, work, own_tokenizer)
        if is_nanogpt:
            _note_nanogpt(imported, model, own_tokenizer)
    if own_tokenizer is None:
        imported.notes.append(
            "without a tokenizer, GPT2.from_pretrained(folder) loads it, the commands do not; for nanoGPT's GPT-2 "
            "vocabulary import again with --tokenizer and a folder that has OpenAI's vocab.json and merges.txt"
        )
    return imported


def _read(path: Path, tokenizer: str | None) -> tuple[GPT2, Tokenizer | None, bool]:
    """Model, tokenizer, and whether it is nanoGPT's."""
    given = None if tokenizer is None else Tokenizer.load(tokenizer)
    content = read_torch_file(path) if path.is_file() and path.suffix in (".pt", ".pth") else None
    if nanogpt.is_nanogpt(content):
        model = nanogpt.model_of(content, path)
        if given is not None:
            model.config = dataclasses.replace(model.config, eos_token_id=given.eos_token_id)
    elif given is not None and path.is_dir():
        model = GPT2.from_pretrained(path)
    else:
        model, own = load(path)
        given = given or own
    if given is not None:
        require_fitting(model, given, path)
    return model, given, nanogpt.is_nanogpt(content)


def _require_finite(model: GPT2, path: Path) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{path} has values in {name} that are no finite numbers; the model is broken")


def _verify(imported: Imported, theirs: Path, ours: Path, tokenizer: Tokenizer | None) -> None:
    """Our reading of what was written against transformers' reading of the source."""
    model = GPT2.from_pretrained(ours).float()
    has_tokenizer = tokenizer is not None and any((theirs / n).is_file() for n in ("tokenizer.json", "vocab.json"))
    try:
        reader = TransformersReader.of_folder(theirs, with_tokenizer=has_tokenizer)
    except ParityError:
        raise
    except MissingExtraError as error:
        imported.unverified = f"no other program to compare with is here. To have it verified: {error}"
        return
    except Exception as error:  # a stranger's folder: its errors have no common base
        imported.unverified = f"transformers cannot open {theirs}: {error}"
        return
    rows = probes.sequences(model, tokenizer, _PROMPTS, _NEW_TOKENS)
    imported.verified = compare(model, tokenizer, reader, _LIMITS, rows, probes.strings())


def _note_nanogpt(imported: Imported, model: GPT2, tokenizer: Tokenizer | None) -> None:
    rows = probes.sequences(model, tokenizer, _PROMPTS, _NEW_TOKENS)
    kl, largest = nanogpt.gelu_difference(model, rows)
    imported.notes.append(
        f"nanoGPT computes GELU exactly, GPT-2 by the tanh form: mean KL {kl:.1e}, "
        f"largest difference of a log-probability {largest:.1e} nats"
    )


def _describe(model: GPT2) -> str:
    shape = model.config
    return (
        f"{shape.num_layers} layers, d_model {shape.d_model}, {shape.num_heads} heads, "
        f"context {shape.context_length:,}, vocabulary {shape.vocab_size:,}: {model.num_parameters():,} parameters"
    )


def _name(source: str) -> str:
    """As `model_name`; files that are called alike everywhere take their folder's name."""
    name = model_name(source)
    path = Path(source)
    return path.resolve().parent.name if path.is_file() and name in ("ckpt", "model", "pytorch_model") else name
