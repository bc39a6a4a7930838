"""transformers' GPT2LMHeadModel with our weights."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Missing
from gpt2 import GPT2Config


def model(config: GPT2Config, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Any:
    """A GPT2LMHeadModel without dropout."""
    try:
        from transformers import GPT2Config as TheirConfig
        from transformers import GPT2LMHeadModel
    except ImportError as error:
        raise Missing("pip install transformers") from error
    theirs = TheirConfig(
        vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model,
        n_layer=config.num_layers, n_head=config.num_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    made = GPT2LMHeadModel(theirs)
    made.load_state_dict({**weights, "lm_head.weight": weights["transformer.wte.weight"]})
    return made.to(dtype)


def greedy(model: Any, ids: Tensor, new: int, **options: Any) -> Tensor:
    """(B, new) long: its own generate(), greedy, never ending early."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        options = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0, **options}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return out[:, ids.shape[1] :]


class Loss(torch.nn.Module):
    """(ids, targets) -> mean loss, through the model's own `labels`, which it shifts by itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.model(ids, labels=ids, shift_labels=targets).loss
