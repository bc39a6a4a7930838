"""Next-token loss of a packed batch: the module that the trainer, DDP and FSDP wrap."""

from torch import Tensor, nn

from gpt2.data.loader import Batch
from gpt2.model import GPT2, Segments


class LanguageModelLoss(nn.Module):
    """Sum of the cross-entropies of a batch and the number of tokens it counts.

    A sum, not a mean: divided by the token count of the whole step, gradient accumulation and
    unequal shares of several processes are exact.
    """

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """(loss sum in nats, fp32 scalar; tokens)."""
        x = self.model.hidden(batch.ids, segments=Segments(batch.lengths))
        weight = self.model.transformer.wte.weight
        loss = self.model.kernels.linear_cross_entropy(x.flatten(0, 1), weight, batch.targets.flatten())
        return loss, batch.targets.numel()
