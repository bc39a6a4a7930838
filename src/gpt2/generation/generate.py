"""The decoding loop: feed the window, choose a token, slide when the context is full."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.generation.native_sampling import chooser
from gpt2.generation.sampling import Sampling

# Fewer tokens are there before a fast decoding step is made ready. A rule, no measurement: the same call must
# always round alike.
_LONG = 32


def generate_ids(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, **options: Any
) -> list[list[int]]:
    """New ids of each prompt, the closing `eos_token_id` included; arguments as in `stream_ids`."""
    rows: list[list[int]] = [[] for _ in prompts]
    for step in stream_ids(model, prompts, max_new_tokens, sampling, **options):
        for row, token in step:
            rows[row].append(token)
    return rows


def stream_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    *,
    seed: int | None = None,
    eos_token_id: int | None = None,
    use_cache: bool = True,
) -> Iterator[list[tuple[int, int]]]:
    """Continue prompts of any lengths together, one token per step.

    Row i draws from its own generator, seeded with `seed + i`, and slides its own window: its ids do
    not depend on its neighbours in the batch (up to rounding).

    Args:
        model: a language model with `config`, `evaluating`, `new_cache`, `decoder`, `forward(ids, cache=)`: a `GPT2`.
        prompts: ids of each row, 1 to `context_length` of them.
        max_new_tokens: most new ids per row, 0 or more.
        sampling: how tokens are chosen.
        seed: of the draws; None: from PyTorch's default generator.
        eos_token_id: ends a row; None: rows end at `max_new_tokens`.
        use_cache: False recomputes the past at each step; the numbers are the same.

    Yields:
        per step, (row, new id) of every row that is not finished.

    Raises:
        ConfigError: an empty or too long prompt, an id outside the vocabulary, or a negative count.
    """
    _check(model.config, prompts, max_new_tokens)
    base = int(torch.randint(2**31, ())) if seed is None else seed
    draws = [_draws((base + row) % 2**63) for row in range(len(prompts))]
    history = [list(prompt) for prompt in prompts]
    fast = max_new_tokens >= _LONG
    window = _Window(model, history, use_cache, fast)
    choose = chooser(sampling, fast, window.device)
    active = list(range(len(prompts)))
    with model.evaluating():
        for _ in range(max_new_tokens if prompts else 0):
            with torch.inference_mode():
                logits = window.logits(active)
                tokens = choose(logits, [history[row] for row in active], [next(draws[row]) for row in active])
            step = list(zip(active, tokens, strict=True))
            for row, token in step:
                history[row].append(token)
            active = [row for row, token in step if token != eos_token_id]
            yield step
            if not active:
                break


def _draws(seed: int) -> Iterator[float]:
    """Numbers in [0, 1), without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(64, generator=generator).tolist()


class _Window:
    """The part of each row that the model sees, and its cached past.

    When a row fills the context, its last half is kept and everything is encoded again from
    position 0. Without a cache the same windows are recomputed, so both ways give the same numbers.
    """

    def __init__(self, model: Any, history: list[list[int]], use_cache: bool, fast: bool) -> None:
        self.model, self.history, self.use_cache, self.fast = model, history, use_cache, fast
        self.device = next(model.parameters()).device
        self.starts = [0] * len(history)
        self.cache: Any = None
        self.step: Any = None
        self.places: dict[int, int] = {}  # of each row, where in the cache

    def logits(self, active: list[int]) -> Tensor:
        """(active, V): for the token after each one's last. A row once left out does not come back."""
        slid = self._slide(active)
        if self.cache is None or slid or not self.use_cache:
            return self._encode(active)
        return self.step([self.history[row][-1] for row in active], [self.places[row] for row in active])

    def _slide(self, active: list[int]) -> bool:
        limit = self.model.config.context_length
        full = [row for row in active if len(self.history[row]) - self.starts[row] > limit]
        for row in full:
            self.starts[row] = len(self.history[row]) - max(1, limit // 2)
        return bool(full)

    def _encode(self, active: list[int]) -> Tensor:
        views = [self.history[row][self.starts[row] :] for row in active]
        width = max(len(view) for view in views)
        padding = self._tensor([width - len(view) for view in views])
        ids = self._tensor([[0] * (width - len(view)) + view for view in views])
        self.places = {row: place for place, row in enumerate(active)}
        self.cache = self.model.new_cache(len(views), padding)
        logits = self.model(ids, cache=self.cache)[:, -1]
        self.step = self.model.decoder(self.cache, fast=self.fast and self.use_cache)
        return logits

    def _tensor(self, values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _check(config: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens must be 0 or more, got {max_new_tokens}")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(f"prompt {row} is empty; begin with the <|endoftext|> id to start from nothing")
        if len(prompt) > config.context_length:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, the model's context holds {config.context_length}; "
                f"shorten the prompt"
            )
        bad = next((i for i in prompt if not 0 <= i < config.vocab_size), None)
        if bad is not None:
            raise ConfigError(f"id {bad} lies outside the model's vocabulary of {config.vocab_size}")
