"""GPT-2: token and position embeddings, a stack of blocks, and the embeddings again as output."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gpt2.config import GPT2Config
from gpt2.errors import ConfigError
from gpt2.generation.generate import generate_ids
from gpt2.generation.sampling import Sampling
from gpt2.manifest import require_unchanged
from gpt2.model import pretrained
from gpt2.model.attention import CausalSelfAttention
from gpt2.model.initialization import initialize
from gpt2.model.kv_cache import KVCache, LayerCache
from gpt2.model.layers import MLP, Dropout, Embedding, LayerNorm
from gpt2.model.ops import Kernels, Tap, kernels, scope
from gpt2.model.ops.decode import DecodingStep, decoding_step, plain_step
from gpt2.model.segments import Segments
from gpt2.model.weight_files import WEIGHTS, read_weights


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): each branch reads and adds to the residual stream."""

    def __init__(self, config: GPT2Config, kernels: Kernels) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.d_model, kernels)
        self.attn = CausalSelfAttention(config, kernels)
        self.ln_2 = LayerNorm(config.d_model, kernels)
        self.mlp = MLP(config, kernels)

    def forward(
        self,
        x: Tensor,
        segments: Segments | None = None,
        cache: LayerCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if tap is not None:
            x = tap("hook_resid_pre", x)
        branch = self.attn(self.ln_1(x, scope(tap, "ln1")), segments, cache, scope(tap, "attn"))
        if tap is not None:
            branch = tap("hook_attn_out", branch)
        x = x + branch
        if tap is not None:
            x = tap("hook_resid_mid", x)
        branch = self.mlp(self.ln_2(x, scope(tap, "ln2")), scope(tap, "mlp"))
        if tap is not None:
            branch = tap("hook_mlp_out", branch)
        x = x + branch
        if tap is not None:
            x = tap("hook_resid_post", x)
        return x


class Transformer(nn.Module):
    """Everything below the logits: ids to the final, normalised residual stream."""

    def __init__(self, config: GPT2Config, kernels: Kernels) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.d_model, kernels)
        self.wpe = Embedding(config.context_length, config.d_model, kernels)
        self.drop = Dropout(config.dropout, kernels)
        self.h = nn.ModuleList(Block(config, kernels) for _ in range(config.num_layers))
        self.ln_f = LayerNorm(config.d_model, kernels)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        dtype: torch.dtype,
        segments: Segments | None = None,
        layer_caches: list[LayerCache] | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """Ids (B, T) and positions (B or 1, T) -> (B, T, D) in `dtype`."""
        token, position = self.wte(ids), self.wpe(positions)
        if tap is not None:
            token, position = tap("hook_embed", token), tap("hook_pos_embed", position.expand_as(token))
        x = self.drop((token + position).to(dtype))
        for layer, block in enumerate(self.h):
            cache = None if layer_caches is None else layer_caches[layer]
            x = block(x, segments, cache, scope(tap, f"blocks.{layer}"))
        return self.ln_f(x, scope(tap, "ln_final"))


class GPT2(nn.Module):
    """GPT-2 (Radford et al., 2019), every layer by hand, under Hugging Face's parameter names.

    Args:
        config: the shape.
        kernels: "fused" (fast) or "reference" (written out), or a `Kernels`.
        generator: source of the initial weights; None: PyTorch's default one.

    Attributes:
        compute_dtype: type of the activations; None: the parameters' own. With fp32 parameters and
            torch.bfloat16 here, each layer casts its weights as it uses them, and gradients arrive
            in fp32: mixed precision without autocast.
        decoding_dtype: type in which decoding reads the weights; None: their own. See `ops.int8`.

    Example:
        >>> model = GPT2(GPT2Config(vocab_size=512, context_length=64, d_model=64, num_layers=2, num_heads=2))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 512])
    """

    def __init__(
        self, config: GPT2Config, kernels: str | Kernels = "fused", generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.kernels = _kernels(kernels)
        self.compute_dtype: torch.dtype | None = None
        self.decoding_dtype: torch.dtype | None = None
        self.generation_defaults: dict[str, Any] = {}
        self.transformer = Transformer(config, self.kernels)
        initialize(self, config, generator)

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | Segments | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:
            ids: (B, T) long.
            positions: (B or 1, T) long; None: counted from the start of the row, of each segment, or
                from what the cache holds.
            segments: (B, T) ids that change where a new document begins, or a `Segments`: no token
                sees another document. None: each row is one document.
            cache: keys and values of the past; the new ones are added to it.
            tap: called as `tap(name, value)` at each named value; what it returns is used instead.

        Returns:
            (B, T, V) float32; bfloat16 models compute in their type and widen at the end.

        Raises:
            ConfigError: ids of the wrong shape, or more tokens than the context holds.
        """
        x = self.hidden(ids, positions=positions, segments=segments, cache=cache, tap=tap)
        return self.kernels.unembed(x, self.transformer.wte.weight).float()

    def hidden(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | Segments | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """(B, T, D): the residual stream after the final norm; arguments as in `forward`."""
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ConfigError(f"ids must have the shape (batch, time) with time > 0, got {tuple(ids.shape)}")
        time = ids.shape[1]
        if isinstance(segments, Tensor):
            segments = Segments.from_ids(segments)
        if positions is None:
            positions = self._positions(ids, segments, cache)
        layer_caches = None if cache is None else cache.layers(time)
        dtype = self.compute_dtype or self.transformer.wte.weight.dtype
        x = self.transformer(ids, positions, dtype, segments, layer_caches, tap)
        if cache is not None:
            cache.advance(time)
        return x

    def _positions(self, ids: Tensor, segments: Segments | None, cache: KVCache | None) -> Tensor:
        longest = ids.shape[1] if segments is None else max(segments.lengths)
        if cache is not None:
            if segments is not None:
                raise ConfigError("a KV cache holds one document per row: give either segments or a cache")
            return cache.positions(ids.shape[1])
        if longest > self.config.context_length:
            raise ConfigError(
                f"{longest} tokens do not fit into context_length {self.config.context_length}; "
                f"cut the ids, or generate(), which slides its window"
            )
        if segments is not None:
            return segments.positions.to(ids.device).view(ids.shape)
        return torch.arange(longest, device=ids.device).unsqueeze(0)

    def new_cache(self, batch: int, padding: Tensor | None = None) -> KVCache:
        """An empty cache for `batch` rows, in the model's type and on its device."""
        weight = self.transformer.wte.weight
        dtype = self.compute_dtype or weight.dtype
        return KVCache(self.config, batch, padding=padding, dtype=dtype, device=weight.device)

    def decoder(self, cache: KVCache, *, fast: bool = True) -> DecodingStep:
        """The fastest step of a decoding loop over `cache`, or a forward pass for each; see `ops.decode`."""
        return decoding_step(self, cache) if fast else plain_step(self, cache)

    def generate(
        self,
        context: Tensor,
        max_new_tokens: int,
        temperature: float | None = None,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Continue each row of `context`.

        Once the context is full, the last half of it is kept and encoded again, so that generation
        never ends for lack of room; what lies before is forgotten.

        Args:
            context: (B, T) long, T up to `context_length`, on any device.
            max_new_tokens: most new ids per row; a row ends earlier at `config.eos_token_id` and is
                then padded with it.
            temperature: 0 takes the likeliest token; default 1, or the model's generation_config.
            top_k: keep the k likeliest tokens.
            top_p: keep the likeliest tokens that together reach this probability.
            min_p: keep tokens at least this share of the likeliest one's probability.
            repetition_penalty: above 1 makes tokens that have occurred less likely (Keskar et al., 2019).
            seed: of the draws; None: from PyTorch's default generator.
            use_cache: False recomputes the past at each step; the numbers are the same.

        Returns:
            (B, T + new) long on the context's device.

        Raises:
            ConfigError: an option out of range, or a context longer than `context_length`.
        """
        chosen = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
        }
        sampling = Sampling.from_options(self.generation_defaults, chosen)
        if context.ndim != 2:
            raise ConfigError(f"context must have the shape (batch, time), got {tuple(context.shape)}")
        options = {"seed": seed, "eos_token_id": self.config.eos_token_id, "use_cache": use_cache}
        rows = generate_ids(self, context.tolist(), max_new_tokens, sampling, **options)
        width = max((len(row) for row in rows), default=0)
        filler = self.config.eos_token_id or 0
        new = torch.tensor([row + [filler] * (width - len(row)) for row in rows], dtype=torch.long)
        return torch.cat([context, new.view(len(rows), width).to(context.device)], dim=1)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this the model is in evaluation mode, without dropout; then, or after an error, in the mode before."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def num_parameters(self) -> int:
        """All parameters; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights; the configuration rides in `_metadata`, so that a bare .pt file loads again."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        state._metadata.setdefault(prefix[:-1], {})["config"] = self.config.to_dict()  # pyright: ignore
        return state

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, generation_config.json, model.safetensors: a folder that transformers loads."""
        pretrained.save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, kernels: str | Kernels = "fused") -> Self:
        """Read a folder with config.json and weights (safetensors or .bin), ours or any Hugging Face GPT-2's.

        Raises:
            CheckpointError: a file is missing, damaged, or does not match the configuration.
            ConfigError: it is not a GPT-2.
        """
        require_unchanged(folder, pretrained.CONFIG, pretrained.GENERATION_CONFIG, WEIGHTS)
        config = pretrained.read_config(folder)
        with torch.device("meta"):
            model = cls(config, kernels)
        pretrained.load_weights(model, read_weights(folder))
        model.generation_defaults = pretrained.read_generation_defaults(folder)
        return model.eval()


def _kernels(chosen: str | Kernels) -> Kernels:
    return chosen if isinstance(chosen, Kernels) else kernels(chosen)
