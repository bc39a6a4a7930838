"""litgpt's GPT in GPT-2's shape. It has no learned positions: close to GPT-2 in cost, not the same function."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Missing
from gpt2 import GPT2Config


class LitGPT(nn.Module):
    """(ids, targets) -> mean loss."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        try:
            from litgpt.config import Config
            from litgpt.model import GPT
        except ImportError as error:
            raise Missing(
                "pip install --no-deps litgpt lightning lightning-utilities torchmetrics (its own requirements "
                "would replace newer packages)"
            ) from error
        theirs = Config(
            block_size=config.context_length, n_layer=config.num_layers, n_embd=config.d_model,
            n_head=config.num_heads, vocab_size=config.vocab_size, padded_vocab_size=config.vocab_size,
            rotary_percentage=0.0, parallel_residual=False, bias=True, gelu_approximate="tanh",
        )  # fmt: skip
        torch.manual_seed(0)
        self.model = GPT(theirs)
        self.model.apply(self.model._init_weights)
        self.model.lm_head.weight = self.model.transformer["wte"].weight
        self.model.max_seq_length = config.context_length

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.model(ids)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
