"""`load`: a model and its tokenizer, from whatever holds them."""

from pathlib import Path

import torch

from gpt2.checkpoint.demo import is_demo, located
from gpt2.checkpoint.hub import fetch, is_hub_name
from gpt2.config import GPT2Config
from gpt2.errors import CheckpointError, ConfigError, TokenizerError
from gpt2.model import GPT2
from gpt2.model.ops import Kernels
from gpt2.model.pretrained import load_weights
from gpt2.model.weight_files import read_torch_file, require_tensors
from gpt2.tokenizer import Tokenizer


def load(
    source: str | Path,
    *,
    config: GPT2Config | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    kernels: str | Kernels = "fused",
) -> tuple[GPT2, Tokenizer]:
    """Load a model, ready to generate, and its tokenizer.

    Args:
        source: a run folder, any Hugging Face GPT-2 folder, "hf:owner/name" or "hf:owner/name@revision"
            for the Hub, or a .pt file with tokenizer.json beside it; "demo", if there is no such path, is
            the model that comes with the package.
        config: the shape, for a .pt file that was saved without one.
        device: where the weights go.
        dtype: type of the weights; None: as stored, but float32 for the model of the package.
        kernels: "fused" or "reference".

    Raises:
        CheckpointError: a file is missing, damaged or does not match.
        ConfigError: not a GPT-2, or a .pt file without a configuration.
        TokenizerError: no tokenizer, or one that does not fit the model.
        MissingExtraError: "hf:" without the extra `hub`.
    """
    path = fetch(str(source)) if is_hub_name(source) else located(source)
    if is_demo(source) and dtype is None:
        dtype = torch.float32  # it is kept in 16 bits to be small, not to be computed with
    model = _from_state_file(path, config, kernels) if path.is_file() else GPT2.from_pretrained(path, kernels)
    tokenizer = _tokenizer(path.parent if path.is_file() else path)
    require_fitting(model, tokenizer, path)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def require_fitting(model: GPT2, tokenizer: Tokenizer, path: Path) -> None:
    """Check that the model has a row for each id.

    Raises:
        TokenizerError: it has not; the message names `path`.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            f"the tokenizer of {path} has {tokenizer.vocab_size:,} ids, the model's vocabulary only "
            f"{model.config.vocab_size:,}: they do not belong together"
        )


def _from_state_file(path: Path, config: GPT2Config | None, kernels: str | Kernels) -> GPT2:
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path} is not a model: give its folder, or a .pt file of weights")
    content = read_torch_file(path)
    if isinstance(content, dict) and "model_args" in content:
        raise CheckpointError(
            f"{path} is a nanoGPT checkpoint; make a model folder of it: gpt2 import {path} --out FOLDER"
        )
    state = require_tensors(content, path)
    if config is None:
        stored = getattr(state, "_metadata", {}).get("", {}).get("config")
        if stored is None:
            raise ConfigError(
                f"{path} was saved without its configuration; give it: load({str(path)!r}, config=GPT2Config(...))"
            )
        config = GPT2Config(**stored)
    with torch.device("meta"):
        model = GPT2(config, kernels)
    load_weights(model, dict(state))
    return model


def _tokenizer(folder: Path) -> Tokenizer:
    if not (folder / "tokenizer.json").is_file():
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return Tokenizer.from_vocab_and_merges(folder / "vocab.json", folder / "merges.txt")
        raise TokenizerError(
            f"{folder} has no tokenizer.json; GPT2.from_pretrained(folder) loads the model without one"
        )
    return Tokenizer.load(folder)
