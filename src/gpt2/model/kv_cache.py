"""Keys and values of the past, kept so that a new token costs one token's work."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.config import GPT2Config
from gpt2.errors import ConfigError


class KVCache:
    """Room for `context_length` tokens of every layer, allocated once.

    Prompts of different lengths share a batch with their padding on the left: `padding[b]` slots of
    row b hold none of its tokens, are never seen, and do not count as positions.

    Args:
        config: shape of the model.
        batch: B, rows.
        padding: (B,) long, empty slots at the left of each row; None: none.
        dtype: type of keys and values, the model's own.
        device: where they live.
    """

    def __init__(
        self,
        config: GPT2Config,
        batch: int,
        *,
        padding: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        # (L, B, T, H, d) to see; in memory head by head, for a head reads its own past from end to end.
        apart = (config.num_layers, batch, config.num_heads, config.context_length, config.head_dim)
        self.keys = torch.zeros(apart, dtype=dtype, device=device).transpose(2, 3)
        self.values = torch.zeros(apart, dtype=dtype, device=device).transpose(2, 3)
        self.padding = padding if padding is not None and bool(padding.any()) else None
        self.length = 0

    @property
    def capacity(self) -> int:
        """Tokens it can hold."""
        return self.keys.shape[2]

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0

    def positions(self, time: int) -> Tensor:
        """(B or 1, T) long: positions of the next `time` tokens, counted from each row's first token."""
        if self.length + time > self.capacity:
            raise ConfigError(
                f"the KV cache holds {self.capacity} tokens (context_length); {self.length} are stored, "
                f"{time} more do not fit"
            )
        positions = torch.arange(self.length, self.length + time, device=self.keys.device).unsqueeze(0)
        if self.padding is not None:
            positions = (positions - self.padding.unsqueeze(1)).clamp(min=0)
        return positions

    def mask(self, time: int) -> Tensor | None:
        """(B, 1, T, past + T) bool, true where a query may look; None: plain causal."""
        if self.padding is None:
            return None
        slots = torch.arange(self.length + time, device=self.keys.device)
        queries = slots[self.length :]
        causal = slots[None, :] <= queries[:, None]
        real = slots[None, :] >= self.padding[:, None]
        # A padding query would see nothing and give 0 / 0: let it see itself, nobody reads it.
        itself = slots[None, :] == queries[:, None]
        return ((causal & real[:, None, :]) | itself).unsqueeze(1)

    def layers(self, time: int) -> list["LayerCache"]:
        """One view per layer for a forward pass over `time` tokens; they share one mask."""
        mask = self.mask(time)
        window = slice(self.length, self.length + time)
        return [LayerCache(self.keys[i], self.values[i], window, mask) for i in range(self.keys.shape[0])]

    def advance(self, time: int) -> None:
        """Count the tokens that every layer has stored."""
        self.length += time


@dataclass
class LayerCache:
    """The part of a `KVCache` that one attention layer writes and reads."""

    keys: Tensor
    values: Tensor
    window: slice
    mask: Tensor | None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store (B, T, H, d) and return all keys and values up to here, and the mask."""
        # Detached: a cache outlives the graph of any one forward pass.
        self.keys[:, self.window] = k.detach()
        self.values[:, self.window] = v.detach()
        return self.keys[:, : self.window.stop], self.values[:, : self.window.stop], self.mask
