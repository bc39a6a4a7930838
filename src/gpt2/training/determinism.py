"""The same run gives the same bits."""

import torch


class Deterministic:
    """Deterministic algorithms while training: the same run gives the same bits."""

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled()
        # On CUDA some of them are slow or missing; there the run is as exact as PyTorch's defaults.
        torch.use_deterministic_algorithms(not torch.cuda.is_available())
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self.before)
