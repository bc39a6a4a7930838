"""`load`: a model and its tokenizer, from whatever holds them."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from gpt2.config import GPT2Config
from gpt2.errors import CheckpointError, ConfigError, MissingExtraError, TokenizerError
from gpt2.model import GPT2
from gpt2.model.ops import Kernels
from gpt2.model.pretrained import load_weights
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
        source: a run folder, any Hugging Face GPT-2 folder, "hf:owner/name" for the Hub, or a .pt file
            with tokenizer.json beside it.
        config: the shape, for a .pt file that was saved without one.
        device: where the weights go.
        dtype: type of the weights; None: as stored.
        kernels: "fused" or "reference".

    Raises:
        CheckpointError: a file is missing, damaged or does not match.
        ConfigError: not a GPT-2, or a .pt file without a configuration.
        TokenizerError: no tokenizer, or one that does not fit the model.
        MissingExtraError: "hf:" without the extra `hub`.
    """
    if str(source).startswith("hf:"):
        source = _download(str(source).removeprefix("hf:"))
    path = Path(source)
    model = _from_state_file(path, config, kernels) if path.is_file() else GPT2.from_pretrained(path, kernels)
    tokenizer = _tokenizer(path.parent if path.is_file() else path)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            f"the tokenizer of {path} has {tokenizer.vocab_size:,} ids, the model's vocabulary only "
            f"{model.config.vocab_size:,}: they do not belong together"
        )
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _from_state_file(path: Path, config: GPT2Config | None, kernels: str | Kernels) -> GPT2:
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path} is not a model: give its folder, or a .pt file of weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says what matters
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict of tensors")
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


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(
            "hf: needs the Hub's client; install it with: pip install 'gpt2-from-scratch[hub]'"
        ) from error
    patterns = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer*.json",
        "vocab.json",
        "merges.txt",
    ]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the client's errors have no common base
        raise CheckpointError(f"cannot fetch {name} from the Hugging Face Hub: {error}") from error
