"""Bootstrap intervals over documents: what another draw of as many documents might have said (Efron, 1979)."""

import torch
from torch import Tensor

_DRAWS = 2000


def interval(sums: Tensor, counts: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """95 % percentile interval of sum(sums) / sum(counts) over documents.

    Args:
        sums: (documents, ...) totals of each document.
        counts: (documents,) what they are divided by.
        seed: of the draws.

    Returns:
        Low and high, (...); of a single document both are its own value.
    """
    documents = len(counts)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(documents, (_DRAWS, documents), generator=generator)
    weights = torch.zeros(_DRAWS, documents, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(_DRAWS, documents, dtype=torch.float64)
    )
    flat = sums.cpu().double().view(documents, -1)
    means = (weights @ flat) / (weights @ counts.cpu().double())[:, None]
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).float()
    return low.view(sums.shape[1:]), high.view(sums.shape[1:])
