"""The plan before the work: what is left open in the settings is chosen, each choice with its reason."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from gpt2.config import GPT2Config
from gpt2.device import Machine
from gpt2.errors import ConfigError
from gpt2.files import human_bytes
from gpt2.model.flops import count_parameters, training_memory
from gpt2.settings import TrainSettings
from gpt2.training.choices import (
    TextFigures,
    choose_config,
    choose_micro_batches,
    choose_seconds,
    choose_tokens_per_step,
    choose_vocab_size,
    choose_weight_decay,
    estimated_bytes_per_token,
    estimated_tokens_per_second,
    padded,
)
from gpt2.training.optimizers import FINE_TUNING_SHARE, RECIPES
from gpt2.training.snapshots import snapshot_count


@dataclass(frozen=True)
class Plan:
    """A run with nothing left open."""

    settings: TrainSettings
    vocab_size: int
    """Ids that the tokenizer should have."""
    config: GPT2Config
    """Its vocabulary is `vocab_size` filled up to a multiple of 64."""
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
    weight_decay: float
    reasons: list[str]
    """Each choice that was made, and why."""

    def lines(self) -> list[str]:
        """The plan for people to read."""
        config, text = self.config, self.text
        seconds = self.seconds or (self.steps or 0) * self.tokens_per_step / self.tokens_per_second
        minutes, tokens = f"{seconds / 60:.3g}", self.expected_tokens(self.train_tokens)
        parameters = count_parameters(config)
        rows = {
            "text": f"{human_bytes(text.num_bytes)} in {text.num_documents:,} "
            f"{'documents' if text.num_documents > 1 else 'document'}, about "
            f"{self.train_tokens:,} tokens; {human_bytes(text.valid_bytes)} to validate on",
            "model": f"{config.num_layers} layers, d_model {config.d_model}, {config.num_heads} heads, context "
            f"{config.context_length}, vocabulary {config.vocab_size:,}: {parameters:,} parameters",
            "training": f"{'' if self.seconds else 'about '}{minutes} minute{'' if minutes == '1' else 's'}, "
            f"about {tokens:,.0f} tokens, "
            f"that is {tokens / self.train_tokens:.2g} times the text; {self.tokens_per_step:,} tokens per step",
            "needs": f"about {human_bytes(training_memory(config, self.micro_batch_tokens))} of memory"
            f"{' in each process' if self.machine.processes > 1 else ''} and "
            f"{human_bytes(self.disk_bytes)} of disk",
        }
        return [f"  {key:<9} {value}" for key, value in rows.items()] + [f"  {'because':<9} {r}" for r in self.reasons]

    @property
    def disk_bytes(self) -> int:
        """Bytes for the model, four checkpoints (the last two, the best, and one being written), and snapshots."""
        snapshots = snapshot_count(self.settings.run.snapshots, self.config)
        return (68 + 2 * snapshots) * count_parameters(self.config)

    def expected_tokens(self, train_tokens: int) -> float:
        """Tokens of the whole run, for a training text of `train_tokens`."""
        steps = count_steps(self.settings, self.tokens_per_step, train_tokens)
        return steps * self.tokens_per_step if steps else (self.seconds or 0.0) * self.tokens_per_second

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens per forward pass."""
        wanted = self.settings.run.micro_batch_tokens
        count = choose_micro_batches(self.tokens_per_step, self.config, self.machine, wanted)
        return math.ceil(self.tokens_per_step / (self.machine.processes * count))


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
        vocab_size = config.vocab_size
        reasons.append(f"the shape and tokenizer of {settings.run.from_model} are kept")
    train_tokens = round(text.num_bytes / estimated_bytes_per_token(config.vocab_size)) + text.num_documents
    tokens_per_step = choose_tokens_per_step(settings, config, train_tokens, machine, seconds, reasons)
    speed = estimated_tokens_per_second(config, machine)
    steps = count_steps(settings, tokens_per_step, train_tokens)
    tokens = steps * tokens_per_step if steps else (seconds or 0.0) * speed
    decay = choose_weight_decay(settings, config, train_tokens, tokens / train_tokens, reasons)
    return Plan(
        settings,
        vocab_size,
        config,
        machine,
        text,
        tokens_per_step,
        train_tokens,
        steps,
        seconds,
        speed,
        decay,
        reasons,
    )


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
        from_model=_absolute(settings.run.from_model),
        tokenizer=_absolute(settings.data.tokenizer),
        vocab_size=vocab_size if new_model else plan.config.vocab_size,
        batch_size=plan.tokens_per_step // config.context_length,
        snapshots=snapshot_count(settings.run.snapshots, config),
        minutes=None if plan.seconds is None else plan.seconds / 60,
        lr=choices.lr or recipe.lr * (1.0 if new_model else FINE_TUNING_SHARE),
        weight_decay=plan.weight_decay,
        decay=choices.decay or recipe.decay,
        grad_clip=choices.grad_clip or recipe.grad_clip,
        device=str(machine.device),
        dtype=str(machine.dtype).removeprefix("torch."),
        threads=machine.threads,
        micro_batch_tokens=plan.micro_batch_tokens,
    ), config


def _absolute(source: str | None) -> str | None:
    """A path that holds from anywhere; a name such as hf:owner/model stays as it is."""
    return str(Path(source).absolute()) if source is not None and Path(source).exists() else source
