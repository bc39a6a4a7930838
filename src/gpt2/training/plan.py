"""The plan before the work: what is left open in the settings is chosen, each choice with its reason."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt2.config import GPT2Config
from gpt2.device import Machine, free_memory
from gpt2.errors import ConfigError
from gpt2.files import human_bytes
from gpt2.settings import TrainSettings
from gpt2.training.optimizers import FINE_TUNING_SHARE, RECIPES

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

# Tokens to train on per parameter: fewer and a smaller model is better after the same time.
_TOKENS_PER_PARAMETER = 3.0

# A text can be read about this often before the model learns it by heart.
_USEFUL_EPOCHS = 10

# Tokens per optimizer step in a run of 4 million tokens.
_TOKENS_PER_STEP = 4096

_DEFAULT_MINUTES = {"cpu": 10.0, "mps": 20.0, "cuda": 20.0}


@dataclass(frozen=True)
class TextFigures:
    """What is known of the text before it is tokenised."""

    num_bytes: int
    """UTF-8 bytes to train on."""
    num_documents: int
    valid_bytes: int


@dataclass(frozen=True)
class Plan:
    """A run with nothing left open."""

    settings: TrainSettings
    config: GPT2Config
    machine: Machine
    text: TextFigures
    tokens_per_step: int
    train_tokens: int
    """Tokens of the training text, estimated."""
    steps: int | None
    """Optimizer steps; None: as many as fit into `seconds`."""
    seconds: float | None
    tokens_per_second: float
    """Training speed to expect, estimated."""
    reasons: list[str]
    """Each choice that was made, and why."""

    def lines(self) -> list[str]:
        """The plan for people to read."""
        config, text = self.config, self.text
        seconds = self.seconds or (self.steps or 0) * self.tokens_per_step / self.tokens_per_second
        tokens = self.expected_tokens(self.train_tokens)
        micro = math.ceil(self.tokens_per_step / self.micro_batches)
        parameters = count_parameters(config)
        rows = {
            "text": f"{human_bytes(text.num_bytes)} in {text.num_documents:,} "
            f"{'documents' if text.num_documents > 1 else 'document'}, about "
            f"{self.train_tokens:,} tokens; {human_bytes(text.valid_bytes)} to validate on",
            "model": f"{config.num_layers} layers, d_model {config.d_model}, {config.num_heads} heads, context "
            f"{config.context_length}, vocabulary {config.vocab_size:,}: {parameters:,} parameters",
            "training": f"{'' if self.seconds else 'about '}{seconds / 60:.3g} minutes, about {tokens:,.0f} tokens, "
            f"that is {tokens / self.train_tokens:.2g} times the text; {self.tokens_per_step:,} tokens per step",
            "needs": f"about {human_bytes(training_memory(config, micro))} of memory and "
            f"{human_bytes(self.disk_bytes)} of disk",
        }
        return [f"  {key:<9} {value}" for key, value in rows.items()] + [f"  {'because':<9} {r}" for r in self.reasons]

    @property
    def disk_bytes(self) -> int:
        """Bytes for the model, two checkpoints with optimizer state, and one being written."""
        return 52 * count_parameters(self.config)

    def expected_tokens(self, train_tokens: int) -> float:
        """Tokens of the whole run, for a training text of `train_tokens`."""
        steps = count_steps(self.settings, self.tokens_per_step, train_tokens)
        return steps * self.tokens_per_step if steps else (self.seconds or 0.0) * self.tokens_per_second

    @property
    def micro_batches(self) -> int:
        """Forward passes per step."""
        wanted = self.settings.run.micro_batch_tokens
        return choose_micro_batches(self.tokens_per_step, self.config, self.machine, wanted)


def estimated_bytes_per_token(vocab_size: int) -> float:
    """Bytes of simple English per token of a vocabulary of this size, roughly."""
    # Measured on the bundled stories and TinyStories: 2.3 at 512 ids, 3.3 at 1,536, 4.0 at 4,096.
    return min(4.2, max(1.0, 2.3 + 0.8 * math.log(vocab_size / 512)))


def flops_per_token(config: GPT2Config) -> float:
    """Floating-point operations of training per token: 6 per weight that multiplies, and attention."""
    weights = 12 * config.num_layers * config.d_model**2 + config.vocab_size * config.d_model
    return 6.0 * weights + 6.0 * config.num_layers * config.d_model * config.context_length


def estimated_tokens_per_second(config: GPT2Config, machine: Machine) -> float:
    """Training speed to expect: narrow models use less of the machine's matrix speed."""
    share = min(0.6, 0.35 * (config.d_model / 128) ** 0.4)
    return max(1.0, share * machine.flops / flops_per_token(config))


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
    """Grows with the square root of the text: rare tokens are learnt badly."""
    if settings.model.vocab_size is not None:
        return settings.model.vocab_size
    size = 64 * max(6, min(157, round(1.3 * math.sqrt(text.num_bytes) / 64)))
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
    """The batch: grows with the square root of the run, so that there are always enough steps."""
    chosen = settings.optimization
    if chosen.batch_size is not None:
        return chosen.batch_size * config.context_length
    if seconds is not None:
        total = seconds * estimated_tokens_per_second(config, machine)
    elif chosen.epochs is not None:
        total = chosen.epochs * train_tokens
    else:
        total = (chosen.steps or 1) * _TOKENS_PER_STEP
    wanted = _TOKENS_PER_STEP * math.sqrt(total / 4e6)
    sequences = max(1, round(2 ** round(math.log2(min(max(wanted, 1024), 524_288))) / config.context_length))
    tokens = sequences * config.context_length
    reasons.append(
        f"{sequences} sequences ({tokens:,} tokens) per step: suits a run of about {total / 1e6:,.1f} M tokens"
    )
    return tokens


def padded(vocab_size: int) -> int:
    """Rows of the embedding for so many ids: a multiple of 64."""
    return 64 * math.ceil(vocab_size / 64)


def count_steps(settings: TrainSettings, tokens_per_step: int, train_tokens: int) -> int | None:
    """Optimizer steps of the run; None: as many as the time allows."""
    chosen = settings.optimization
    if chosen.steps is not None:
        return chosen.steps
    if chosen.epochs is not None:
        return max(1, math.ceil(chosen.epochs * train_tokens / tokens_per_step))
    return None


def check_context(config: GPT2Config, train_tokens: int) -> None:
    """Refuse a context that the text cannot fill.

    Raises:
        ConfigError: the text has fewer tokens than one context.
    """
    if config.context_length > train_tokens:
        raise ConfigError(
            f"context_length is {config.context_length:,}, but the training text has only {train_tokens:,} tokens; "
            f"give a shorter context or more text"
        )


def count_parameters(config: GPT2Config) -> int:
    """Parameters of a GPT-2, by formula; the tied embedding counts once."""
    d, layers = config.d_model, config.num_layers
    block = 12 * d * d + 13 * d
    return (config.vocab_size + config.context_length) * d + layers * block + 2 * d


def training_memory(config: GPT2Config, micro_batch_tokens: int) -> int:
    """Bytes that weights, gradients, optimizer state and activations need, roughly."""
    states = 16 * count_parameters(config)
    activations = micro_batch_tokens * (config.num_layers * 34 * config.d_model + 8 * config.d_model) * 2
    return states + activations + 256 * config.vocab_size * 8


def make_plan(settings: TrainSettings, text: TextFigures, machine: Machine, base: GPT2Config | None) -> Plan:
    """Choose everything that the settings leave open.

    Args:
        settings: what is given.
        text: what is known of the text.
        machine: what it runs on.
        base: shape of the model to fine-tune; None: a new one.

    Raises:
        ConfigError: settings that do not go together.
    """
    reasons = list(machine.reasons)
    seconds = choose_seconds(settings, machine, reasons)
    if base is None:
        vocab_size = choose_vocab_size(settings, text, reasons)
        config = choose_config(settings, vocab_size, text, machine, seconds, reasons)
    else:
        config = _keep_shape(settings, base)
        reasons.append(f"the shape and tokenizer of {settings.run.from_model} are kept")
    train_tokens = round(text.num_bytes / estimated_bytes_per_token(config.vocab_size)) + text.num_documents
    tokens_per_step = choose_tokens_per_step(settings, config, train_tokens, machine, seconds, reasons)
    speed = estimated_tokens_per_second(config, machine)
    steps = count_steps(settings, tokens_per_step, train_tokens)
    return Plan(settings, config, machine, text, tokens_per_step, train_tokens, steps, seconds, speed, reasons)


def choose_micro_batches(tokens_per_step: int, config: GPT2Config, machine: Machine, wanted: int | None) -> int:
    """Forward passes per step, so that the activations fit into memory (and, on a CPU, not far beyond its cache)."""
    limit = wanted or 16_384
    if wanted is None and machine.device.type != "cpu":
        free = free_memory(machine.device) or 8 * 10**9
        limit = 65_536
        while limit > config.context_length and training_memory(config, limit) > 0.6 * free:
            limit //= 2
    return math.ceil(tokens_per_step / max(limit, config.context_length))


def _keep_shape(settings: TrainSettings, base: GPT2Config) -> GPT2Config:
    for name in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads"):
        wanted, there = getattr(settings.model, name), getattr(base, name)
        if wanted is not None and wanted != there:
            raise ConfigError(
                f"{name} of {settings.run.from_model} is {there}; fine-tuning cannot change it to {wanted}"
            )
    dropout = base.dropout if settings.model.dropout is None else settings.model.dropout
    return dataclasses.replace(base, dropout=dropout)


def resolve(plan: Plan, vocab_size: int, eos_token_id: int, new_model: bool) -> tuple[TrainSettings, GPT2Config]:
    """The settings with every choice written down, and the model's final shape.

    Args:
        plan: the choices.
        vocab_size: ids of the tokenizer, which may have found fewer than planned.
        eos_token_id: its id of `<|endoftext|>`.
        new_model: False keeps the vocabulary of the model that is fine-tuned.
    """
    rows = padded(vocab_size) if new_model else plan.config.vocab_size
    config = dataclasses.replace(plan.config, vocab_size=rows, eos_token_id=eos_token_id)
    settings, machine = plan.settings, plan.machine
    choices, recipe = settings.optimization, RECIPES[settings.optimization.optimizer]
    shape = {
        name: getattr(config, name) for name in ("context_length", "d_model", "num_layers", "num_heads", "dropout")
    }
    return settings.changed(
        **shape,
        text=[str(Path(source).absolute()) for source in settings.data.text],
        valid=[str(Path(source).absolute()) for source in settings.data.valid],
        vocab_size=vocab_size if new_model else plan.config.vocab_size,
        batch_size=plan.tokens_per_step // config.context_length,
        minutes=None if plan.seconds is None else plan.seconds / 60,
        lr=choices.lr or recipe.lr * (1.0 if new_model else FINE_TUNING_SHARE),
        weight_decay=recipe.weight_decay if choices.weight_decay is None else choices.weight_decay,
        decay=choices.decay or recipe.decay,
        grad_clip=choices.grad_clip or recipe.grad_clip,
        device=str(machine.device),
        dtype=str(machine.dtype).removeprefix("torch."),
        micro_batch_tokens=math.ceil(plan.tokens_per_step / plan.micro_batches),
    ), config
