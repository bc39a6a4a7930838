"""`gpt2 export`: a model in another program's format, opened by that program before success is claimed."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gpt2.checkpoint import load
from gpt2.checkpoint.demo import located
from gpt2.checkpoint.hub import is_hub_name
from gpt2.errors import ConfigError, MissingExtraError
from gpt2.files import require_free_space
from gpt2.interop import gguf, onnx, probes
from gpt2.interop.parity import LIMITS, Limits, Parity, ParityError, Reader, compare
from gpt2.interop.readers import LlamaCppReader, OnnxReader, TransformersReader
from gpt2.interop.staging import staged
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

DTYPES = {
    "hf": ("f32", "f16", "bf16"),
    "gguf": ("f16", "f32", "q8_0"),
    "onnx": (),
    "pt": ("f32", "f16", "bf16"),
}
"""Number formats of each target, the default first; ONNX always comes in 32 and in 8 bits."""

_TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# Of each prompt, and of what the model itself makes of it.
_PROMPTS, _NEW_TOKENS = 8, 32

# llama.cpp looks GELU up in a table of 16-bit numbers, whatever the weights are.
_LLAMA_F32 = Limits(1e-4, None)


@dataclass(frozen=True)
class Check:
    """One file to open, who opens it, and how close it must be."""

    file: str
    open: Callable[[], Reader]
    limits: Limits


@dataclass(frozen=True)
class Exported:
    """What was written and what is known of it."""

    folder: Path
    files: list[str]
    verified: dict[str, Parity] = field(default_factory=dict)
    unverified: dict[str, str] = field(default_factory=dict)
    """File -> what to install to have it verified."""


def export(
    source: str | Path, to: str, *, out: str | Path | None = None, dtype: str | None = None, overwrite: bool = False
) -> Exported:
    """Write a model in another format and verify it with an independent reader.

    Args:
        source: whatever `gpt2.load` takes.
        to: "hf", "gguf", "onnx" or "pt".
        out: folder to put the files into; default exports/NAME.
        dtype: one of `DTYPES[to]`.
        overwrite: replace files of the same names.

    Raises:
        UserError: a bad option, model or folder; nothing that was there is harmed.
        MissingExtraError: the writer is not installed (a missing reader only leaves files unverified).
        ParityError: the reader disagrees; nothing is left of the export.
    """
    dtype = _chosen_dtype(to, dtype)
    name = model_name(source)
    model, tokenizer = load(source, dtype=torch.float32)
    out = Path("exports") / name if out is None else Path(out)
    require_free_space(out, 6 * model.num_parameters() + 50_000_000, f"the export of {source}")
    with staged(out, overwrite) as (work, refuse_if_taken):
        checks = _WRITERS[to](model, tokenizer, work, dtype, name)
        card = located(source) / "README.md"
        if to == "hf" and not is_hub_name(source) and card.is_file():
            shutil.copy(card, work)
        refuse_if_taken()
        files = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
        exported = Exported(out, files)
        _verify(model, tokenizer, checks, exported)
    return exported


def model_name(source: str | Path) -> str:
    """`models/mine` -> "mine", `hf:owner/name@main` -> "name", `a/gpt2_model.pt` -> "gpt2_model"."""
    if is_hub_name(source):
        return str(source).removeprefix("hf:").partition("@")[0].rsplit("/", 1)[-1]
    path = Path(source)
    return path.stem if path.suffix in (".pt", ".pth", ".bin") else path.resolve().name


def _verify(model: GPT2, tokenizer: Tokenizer, checks: list[Check], exported: Exported) -> None:
    rows = probes.sequences(model, tokenizer, _PROMPTS, _NEW_TOKENS)
    texts = probes.strings()
    for check in checks:
        try:
            reader = check.open()
        except MissingExtraError as error:
            exported.unverified[check.file] = str(error)
            continue
        try:
            exported.verified[check.file] = compare(model, tokenizer, reader, check.limits, rows, texts)
        except ParityError as error:
            raise ParityError(f"{check.file} failed its check and has been removed: {error}") from error


def _chosen_dtype(to: str, dtype: str | None) -> str:
    if to not in DTYPES:
        raise ConfigError(f"there is no format {to!r}; choose {', '.join(DTYPES)}")
    if dtype is None:
        return next(iter(DTYPES[to]), "f32")
    if dtype not in DTYPES[to]:
        can = f"it can be {', '.join(DTYPES[to])}" if DTYPES[to] else "it has none: 32 and 8 bits are both written"
        raise ConfigError(f"--dtype {dtype} does not exist for {to}; {can}")
    return dtype


def _write_hf(model: GPT2, tokenizer: Tokenizer, folder: Path, dtype: str, name: str) -> list[Check]:
    copy.deepcopy(model).to(_TORCH[dtype]).save_pretrained(folder)
    tokenizer.save_pretrained(folder, model_max_length=model.config.context_length)
    return [Check("model.safetensors", lambda: TransformersReader.of_folder(folder), LIMITS[dtype])]


def _write_pt(model: GPT2, tokenizer: Tokenizer, folder: Path, dtype: str, name: str) -> list[Check]:
    path = folder / "gpt2_model.pt"
    torch.save(copy.deepcopy(model).to(_TORCH[dtype]).state_dict(), path)
    tokenizer.save_pretrained(folder, model_max_length=model.config.context_length)
    return [Check(path.name, lambda: TransformersReader.of_state(path, model.config), LIMITS[dtype])]


def _write_gguf(model: GPT2, tokenizer: Tokenizer, folder: Path, dtype: str, name: str) -> list[Check]:
    path = folder / f"{name}-{dtype}.gguf"
    gguf.write_gguf(model, tokenizer, path, dtype, name)
    return [Check(path.name, lambda: LlamaCppReader(path), _LLAMA_F32 if dtype == "f32" else LIMITS[dtype])]


def _write_onnx(model: GPT2, tokenizer: Tokenizer, folder: Path, dtype: str, name: str) -> list[Check]:
    """The folder that transformers.js reads; weights as safetensors are not part of it."""
    (folder / "onnx").mkdir()
    checks = []
    for file, quantised, limits in ((onnx.MODEL, False, LIMITS["f32"]), (onnx.QUANTISED, True, LIMITS["q8_0"])):
        path = folder / file
        onnx.write_onnx(model, path, quantised)
        checks.append(Check(file, lambda path=path: OnnxReader(path), limits))
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    tokenizer.save_pretrained(folder, model_max_length=model.config.context_length)
    return checks


_WRITERS = {"hf": _write_hf, "gguf": _write_gguf, "onnx": _write_onnx, "pt": _write_pt}
