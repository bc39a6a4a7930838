"""`gpt2 export`: a model for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Export:
    """Write a model for other programs, and have one of them open it and agree before success is printed."""

    model: Positional[str]
    """A run folder, any Hugging Face GPT-2 folder, hf:owner/name, a .pt beside tokenizer.json, or demo."""
    to: Literal["hf", "gguf", "onnx", "pt"]
    """hf: transformers and most tools. gguf: llama.cpp, Ollama, LM Studio. onnx: onnxruntime, transformers.js.
    pt: PyTorch's own file of weights."""
    out: str | None = None
    """Folder for the files; the formats may share one. None: exports/NAME."""
    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = "auto"
    """Numbers of the weights. hf and pt: f32 (auto), f16 or bf16; gguf: f16 (auto), f32 or q8_0; onnx: always both 32
    and 8 bits."""
    overwrite: bool = False
    """Replace files of the same names."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 export`."""
    options = tyro.cli(Export, args=argv, prog="gpt2 export")
    from gpt2.cli.models import say_which
    from gpt2.files import human_bytes
    from gpt2.interop.export import export

    say_which(options.model)
    dtype = None if options.dtype == "auto" else options.dtype
    done = export(options.model, options.to, out=options.out, dtype=dtype, overwrite=options.overwrite)
    for file in done.files:
        print(f"{human_bytes((done.folder / file).stat().st_size):>8}  {done.folder / file}")
    for file, parity in done.verified.items():
        print(f"verified: {file} by {parity}")
    for file, missing in done.unverified.items():
        print(f"written, not verified: no other program to open {file} is here. To have it verified: {missing}")
    return 0
