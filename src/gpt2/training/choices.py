"""What is chosen where the settings leave it open: each choice adds its reason to a list."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gpt2.config import GPT2Config
from gpt2.device import Machine, free_memory
from gpt2.files import human_bytes
from gpt2.model.flops import count_parameters, flops_per_token, training_memory
from gpt2.settings import TrainSettings
from gpt2.training.optimizers import RECIPES

# Shapes to choose from: layers, width, heads. Heads of 32 to 64 dimensions.
_LADDER = [
    (4, 64, 2),
    (4, 96, 3),
    (4, 128, 4),
    (4, 192, 6),
    (6, 256, 8),
    (6, 384, 6),
    (6, 512, 8),
    (12, 768, 12),
]

# Tokens to train on per parameter: fewer and a smaller model is better after the same time. Measured on the bundled
# stories: 64 wide against 96 (docs/recipe.md) meet at 3.
_TOKENS_PER_PARAMETER = 3.0

# A text can be read about this often before the model learns it by heart.
_USEFUL_EPOCHS = 10

# From here on a text counts as read many times. Weights then decay faster the more parameters there are for each token
# of it, up to so many times as fast. Bundled stories, 0.9, 1.7 and 2.7 parameters per token: docs/recipe.md.
_MANY_PASSES, _DECAY_OF_LARGE, _MOST_DECAY = 3, 1.2, 3.0

# Tokens per optimizer step, and the tokens of the run that it suits: docs/recipe.md. It grows with the power of the run
# that Bergsma et al. (2025, arXiv:2505.13738) found for the best batch, whatever the model's size.
_TOKENS_PER_STEP, _TOKENS_OF_RUN, _GROWTH_OF_STEP = 4096, 3.5e6, 0.4

# Ids that a text supports: with its square root while it is small, more slowly when nearly every word has its own.
_IDS_OF_SMALL, _IDS_OF_LARGE, _MOST_IDS = 3.5, 118, 10_048

_DEFAULT_MINUTES = {"cpu": 10.0, "mps": 20.0, "cuda": 20.0}


@dataclass(frozen=True)
class TextFigures:
    """What is known of the text before it is tokenised."""

    num_bytes: int
    """UTF-8 bytes to train on."""
    num_documents: int
    valid_bytes: int


def estimated_bytes_per_token(vocab_size: int) -> float:
    """Bytes of simple English per token of a vocabulary of this size, roughly."""
    # Measured on the bundled stories and TinyStories: 2.3 at 512 ids, 3.3 at 1,536, 4.0 at 4,096.
    return min(4.2, max(1.0, 2.3 + 0.8 * math.log(vocab_size / 512)))


def estimated_tokens_per_second(config: GPT2Config, machine: Machine) -> float:
    """Training speed to expect: the narrower the model and the faster the number type, the less of it are products."""
    # Measured with two threads in float32 (64 wide: 0.44, 128 wide: 0.58) and in bfloat16 (128 wide: 0.32).
    at_128 = 0.58 if machine.dtype == torch.float32 else 0.35
    share = min(0.7, at_128 * (config.d_model / 128) ** 0.4)
    return max(1.0, share * machine.processes * machine.flops / flops_per_token(config))


def choose_seconds(settings: TrainSettings, machine: Machine, reasons: list[str]) -> float | None:
    """The time budget in seconds; None: the run's length is given in steps or epochs."""
    chosen = settings.optimization
    if chosen.minutes is not None:
        return chosen.minutes * 60
    if chosen.steps is not None or chosen.epochs is not None:
        return None
    minutes = _DEFAULT_MINUTES[machine.device.type]
    reasons.append(
        f"{minutes:g} minutes: the default on {machine.device.type}; --minutes, --epochs or --steps change it"
    )
    return minutes * 60


def choose_vocab_size(settings: TrainSettings, text: TextFigures, reasons: list[str]) -> int:
    """Grows with the text: a word that is one token need not be spelt, but rare tokens are learnt badly."""
    if settings.model.vocab_size is not None:
        return settings.model.vocab_size
    wanted = min(_IDS_OF_SMALL * math.sqrt(text.num_bytes), _IDS_OF_LARGE * text.num_bytes**0.25, _MOST_IDS)
    size = 64 * max(6, round(wanted / 64))
    reasons.append(f"vocabulary of {size:,}: what {human_bytes(text.num_bytes)} of text support")
    return size


def choose_config(
    settings: TrainSettings,
    vocab_size: int,
    text: TextFigures,
    machine: Machine,
    seconds: float | None,
    reasons: list[str],
) -> GPT2Config:
    """The model's shape: what is given is kept, what is open is chosen."""
    model = settings.model
    context = model.context_length or _choose_context(text, vocab_size, reasons)
    rows = padded(vocab_size)
    if rows != vocab_size:
        reasons.append(
            f"embedding of {rows:,} rows: the {vocab_size:,} ids filled up to a multiple of 64, which is faster"
        )
    dropout = model.dropout if model.dropout is not None else 0.0

    def shaped(layers: int, width: int, heads: int) -> GPT2Config:
        return GPT2Config(rows, context, width, layers, heads, dropout)

    given = (model.num_layers, model.d_model, model.num_heads)
    if all(given):
        return shaped(*(value or 0 for value in given))
    if any(given):
        width = model.d_model or (
            32 * model.num_heads if model.num_heads else 64 * max(1, (model.num_layers or 4) // 2)
        )
        heads = model.num_heads or next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)
        config = shaped(model.num_layers or max(4, round(width / 85)), width, heads)
        reasons.append(f"{config.num_layers} layers, d_model {width}, {heads} heads: made to go with what was given")
        return config
    return _choose_shape(shaped, text, machine, seconds, reasons)


def _choose_shape(
    shaped: Callable[[int, int, int], GPT2Config],
    text: TextFigures,
    machine: Machine,
    seconds: float | None,
    reasons: list[str],
) -> GPT2Config:
    best = shaped(*_LADDER[0])
    for shape in _LADDER[1:]:
        config = shaped(*shape)
        available = _USEFUL_EPOCHS * text.num_bytes / estimated_bytes_per_token(config.vocab_size)
        if seconds is not None:
            available = min(available, seconds * estimated_tokens_per_second(config, machine))
        if available < _TOKENS_PER_PARAMETER * count_parameters(config):
            break
        best = config
    limit = "the text and the time" if seconds is not None else "the text"
    reasons.append(
        f"{best.num_layers} layers, d_model {best.d_model}, {best.num_heads} heads: "
        f"the largest shape of which {limit} give {_TOKENS_PER_PARAMETER:g} tokens per parameter"
    )
    return best


def _choose_context(text: TextFigures, vocab_size: int, reasons: list[str]) -> int:
    mean = text.num_bytes / text.num_documents / estimated_bytes_per_token(vocab_size)
    context = next((size for size in (64, 128, 256) if 1.2 * mean <= size), 256 if mean < 200 else 512)
    total = text.num_bytes / estimated_bytes_per_token(vocab_size)
    while context > 16 and context * 4 > total:
        context //= 2
    reasons.append(f"context of {context}: the documents have about {mean:,.0f} tokens on average")
    return context


def choose_tokens_per_step(
    settings: TrainSettings,
    config: GPT2Config,
    train_tokens: int,
    machine: Machine,
    seconds: float | None,
    reasons: list[str],
) -> int:
    """The batch: grows more slowly than the run, so that there are always enough steps."""
    chosen = settings.optimization
    if chosen.batch_size is not None:
        return chosen.batch_size * config.context_length
    if seconds is not None:
        total = seconds * estimated_tokens_per_second(config, machine)
    elif chosen.epochs is not None:
        total = chosen.epochs * train_tokens
    else:
        total = (chosen.steps or 1) * _TOKENS_PER_STEP
    wanted = _TOKENS_PER_STEP * (total / _TOKENS_OF_RUN) ** _GROWTH_OF_STEP
    sequences = max(1, round(2 ** round(math.log2(min(max(wanted, 1024), 524_288))) / config.context_length))
    tokens = sequences * config.context_length
    reasons.append(
        f"{sequences} sequences ({tokens:,} tokens) per step: suits a run of about {total / 1e6:,.1f} M tokens"
    )
    return tokens


def choose_weight_decay(
    settings: TrainSettings, config: GPT2Config, train_tokens: int, passes: float, reasons: list[str]
) -> float:
    """More for a text that is read several times: the model learns it by heart otherwise, the larger the sooner."""
    chosen = settings.optimization
    if chosen.weight_decay is not None:
        return chosen.weight_decay
    usual = RECIPES[chosen.optimizer].weight_decay
    times = min(_MOST_DECAY, max(1.0, _DECAY_OF_LARGE * count_parameters(config) / train_tokens))
    if passes < _MANY_PASSES or chosen.optimizer != "muon" or times == 1.0:
        return usual
    more = float(f"{times * usual:.2g}")
    reasons.append(
        f"weight decay of {more:g} instead of {usual:g}: the text is read {passes:.1f} times, "
        f"by {count_parameters(config) / train_tokens:.1f} parameters for each of its tokens"
    )
    return more


def choose_micro_batches(tokens_per_step: int, config: GPT2Config, machine: Machine, wanted: int | None) -> int:
    """Forward passes per step and process: activations fit into memory (on a CPU: not far beyond its cache)."""
    limit = wanted or 16_384
    if wanted is None and machine.device.type != "cpu":
        free = free_memory(machine.device) or 8 * 10**9
        limit = 65_536
        while limit > config.context_length and training_memory(config, limit) > 0.6 * free:
            limit //= 2
    return math.ceil(tokens_per_step / (machine.processes * max(limit, config.context_length)))


def padded(vocab_size: int) -> int:
    """Rows of the embedding for so many ids: a multiple of 64."""
    return 64 * math.ceil(vocab_size / 64)
