"""From text to a trained model folder: what `gpt2 train` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint.hub import is_hub_name, pinned
from gpt2.checkpoint.load import load
from gpt2.checkpoint.run_folder import RunFolder
from gpt2.checkpoint.store import Checkpoint, require_checkpoint
from gpt2.data import Prepared, prepare_corpus
from gpt2.data.loader import BatchLoader
from gpt2.device import examine
from gpt2.errors import CheckpointError, StoppedError
from gpt2.evaluation.bits_per_byte import Score
from gpt2.files import atomic_write, require_free_space
from gpt2.model import GPT2
from gpt2.settings import TrainSettings
from gpt2.tokenizer import Tokenizer
from gpt2.training import inputs
from gpt2.training.averaging import WeightAverage
from gpt2.training.choices import TextFigures
from gpt2.training.compiling import compile_if
from gpt2.training.finish import finish, sample_text, validate
from gpt2.training.hooks import Metrics, Progress, Signals, Validation
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.optimizers import RECIPES, build_optimizer
from gpt2.training.plan import Plan, check_context, count_steps, make_plan, resolve
from gpt2.training.schedule import learning_rate_factor
from gpt2.training.step_plan import StepPlan
from gpt2.training.trainer import Trainer

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainedRun:
    """What a run gave."""

    folder: Path
    """A Hugging Face GPT-2 folder, with `training/` inside."""
    model: GPT2
    """The best weights by validation."""
    tokenizer: Tokenizer
    score: Score
    """Of the validation documents, in fp32."""
    steps: int


def train(text: str | Path | Sequence[str | Path] = (), *, progress: bool = True, **settings: Any) -> TrainedRun | None:
    """Train a GPT-2 on text and save it.

    Args:
        text: files or folders; none: the bundled stories.
        progress: print the plan, a progress bar and samples.
        **settings: any setting of `TrainSettings` by its name, `preset=` and `config=`.

    Returns:
        The run; None if `plan=True`.

    Raises:
        UserError: bad settings, text or files; nothing that was there is harmed.
        DivergedError: the loss left the finite numbers.
        StoppedError: a signal came; everything is saved and `resume=` continues.

    Example:
        >>> run = train(["stories.txt"], out="models/mine", minutes=5)  # doctest: +SKIP
    """
    if isinstance(text, (str, Path)) or len(text):
        settings["text"] = text
    return run(TrainSettings.layered(settings), progress=progress)


def run(settings: TrainSettings, *, progress: bool = True) -> TrainedRun | None:
    """Plan, prepare, train, finish; see `train`."""
    say = _printer(progress)
    if settings.run.resume:
        settings = inputs.settings_to_resume(settings)
    folder = RunFolder(settings.run.out or inputs.default_out(settings))
    if not settings.run.plan and not settings.run.resume:
        folder.refuse_if_taken(settings.run.overwrite)
    machine = examine(settings.run.device, settings.run.dtype, settings.run.threads)
    corpus = inputs.survey_text(settings, progress)
    if settings.run.from_model and is_hub_name(settings.run.from_model):
        settings = settings.changed(from_model=pinned(settings.run.from_model))
    base = load(settings.run.from_model) if settings.run.from_model else None
    figures = TextFigures(corpus.num_bytes, corpus.num_documents, corpus.num_valid_bytes)
    plan = make_plan(settings, figures, machine, base[0].config if base else None)
    say("\n".join([f"Plan for {folder.path}", *plan.lines(), *(f"  {'note':<9} {note}" for note in corpus.notes)]))
    if settings.run.plan:
        return None
    require_free_space(folder.path, plan.disk_bytes, "the model and its checkpoints")
    if settings.run.resume:
        tokenizer = Tokenizer.load(folder.path)
    else:
        tokenizer = inputs.obtain_tokenizer(settings, corpus, plan.vocab_size, base[1] if base else None)
    prepared = prepare_corpus(corpus, tokenizer, progress=progress)
    settings, config = resolve(plan, tokenizer.vocab_size, tokenizer.eos_token_id, base is None)
    check_context(config, prepared.train.num_tokens)
    if not settings.run.resume:
        folder.claim(settings.run.overwrite)
        tokenizer.save_pretrained(folder.path, model_max_length=config.context_length)
        with atomic_write(folder.config) as file:
            file.write(
                settings.changed(out=str(folder.path)).to_toml("gpt2 train --config THIS_FILE makes this run again.")
            )
    model = GPT2(config, settings.run.kernels, torch.Generator().manual_seed(settings.run.seed))
    if base:
        model.load_state_dict(base[0].state_dict())
    model.generation_defaults = (base[0].generation_defaults if base else {}) or {"temperature": 0.8}
    return _Run(settings, plan, folder, model.to(machine.device), tokenizer, prepared, say, progress).go()


class _Run:
    """The parts of one run, put together."""

    def __init__(
        self, settings: TrainSettings, plan: Plan, folder: RunFolder, model: GPT2, tokenizer: Tokenizer,
        prepared: Prepared, say: Say, progress: bool,
    ) -> None:  # fmt: skip
        self.settings, self.plan, self.folder, self.model = settings, plan, folder, model
        self.tokenizer, self.prepared, self.say, self.progress = tokenizer, prepared, say, progress
        self.fingerprints = {"data": prepared.train.fingerprint, "tokenizer": tokenizer.fingerprint}
        machine = plan.machine
        model.compute_dtype = machine.dtype if machine.dtype != torch.float32 else None
        self.loss = LanguageModelLoss(model)
        choices = settings.optimization
        recipe = RECIPES[choices.optimizer]
        self.optimizer = build_optimizer(model, choices.optimizer, choices.lr or recipe.lr, choices.weight_decay or 0.0)
        tokens_per_step = (choices.batch_size or 1) * model.config.context_length
        self.average = WeightAverage(dict(model.named_parameters()))
        self.loader = BatchLoader(prepared.train, tokens_per_step, model.config.context_length, settings.run.seed)
        total = count_steps(settings, tokens_per_step, prepared.train.num_tokens)
        self.trainer = Trainer(
            self.loss,
            self.optimizer,
            self.loader,
            StepPlan(total, plan.seconds),
            partial(learning_rate_factor, warmup=choices.warmup, decay=choices.decay or recipe.decay,
                    hold=recipe.hold, floor=recipe.floor),
            micro_batches=-(-tokens_per_step // (settings.run.micro_batch_tokens or tokens_per_step)),
            device=machine.device,
            grad_clip=choices.grad_clip,
            seed=settings.run.seed,
        )  # fmt: skip

    def go(self) -> TrainedRun:
        """Resume if that is wanted, train, and finish, whatever ends the training."""
        checkpoint = self._restore() if self.settings.run.resume else None
        example = self.loader.batch(0, 0, self.trainer.micro_batches)
        self.say(f"  {'because':<9} {compile_if(self.settings.run.compile, self.loss, self.plan.machine, example)}")
        metrics = Metrics(self.folder.metrics, self.trainer.state.step)
        bar = Progress(metrics, self.progress)
        validation = self._validation(metrics, bar)
        if checkpoint is None:
            self.folder.samples.write_text("# Samples during training\n\n", encoding="utf-8")
        else:
            validation.state = checkpoint.state["validation"]
        with Signals() as signals, _deterministic():
            self.trainer.hooks = [bar, validation, signals]
            try:
                self.trainer.fit()
            finally:
                bar.close()
                metrics.close()
                self._save_whatever_is_there(validation)
        if signals.received is not None:
            raise StoppedError(
                f"stopped at step {self.trainer.state.step:,}, everything is saved; go on with: "
                f"gpt2 train --resume {self.folder.path}",
                signals.received,
            )
        if self.trainer.stop_reason:
            self.say(f"stopped early: {self.trainer.stop_reason}")
        score = finish(
            self.settings,
            self.folder,
            self.model,
            self.tokenizer,
            self.prepared.valid,
            self.trainer.state,
            self.say,
        )
        return TrainedRun(self.folder.path, self.model, self.tokenizer, score, self.trainer.state.step)

    def _validation(self, metrics: Metrics, bar: Progress) -> Validation:
        run, choices, shards = self.settings.run, self.settings.optimization, self.prepared.valid
        # A forward pass costs a third of a step: 0.9 % of the tokens, ten times, is 3 % of the run.
        tokens = self.plan.expected_tokens(self.prepared.train.num_tokens)
        chosen = inputs.spread(shards, max(8192, int(0.09 * tokens / run.evals)))
        return Validation(
            self.folder,
            self.model,
            self.average,
            partial(validate, self.model, shards, chosen, self.tokenizer.eos_token_id),
            partial(sample_text, self.model, self.tokenizer, run.prompt, run.seed),
            metrics,
            bar.say,
            evals=run.evals,
            save_every=run.save_every,
            patience=choices.patience,
            extra={"fingerprints": self.fingerprints},
        )

    def _restore(self) -> Checkpoint | None:
        checkpoint, skipped = require_checkpoint(self.folder.checkpoints)
        for sentence in skipped:
            self.say(f"  {'note':<9} {sentence}")
        if checkpoint is None:
            self.say("  no checkpoint yet: the run begins from the start")
            return None
        for what, now in self.fingerprints.items():
            then = checkpoint.state["fingerprints"][what]
            if now != then:
                raise CheckpointError(
                    f"the {what} changed since the run was saved: its fingerprint was {then[:16]}, "
                    f"now it is {now[:16]}; restore the old text, or start anew from its weights with "
                    f"--from {self.folder.path}"
                )
        self.model.load_state_dict(checkpoint.tensors("model"))
        self.average.load_state_dict(checkpoint.tensors("average"))
        self.optimizer.load_state_dict(checkpoint.tensors("optimizer"))
        self.trainer.load_state_dict(checkpoint.state)
        self.say(f"  {'resumed':<9} at step {checkpoint.step:,} from {checkpoint.path}")
        return checkpoint

    def _save_whatever_is_there(self, validation: Validation) -> None:
        """After the last step, a signal or an exception: a checkpoint, and a model that works."""
        if self.trainer.state.step == 0 or self.trainer.is_updating or self.trainer.diverged:
            return
        validation.save(self.trainer)
        if validation.state["best_step"] is None:
            self.model.save_pretrained(self.folder.path)


class _deterministic:
    """Deterministic algorithms while training: the same run gives the same bits."""

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled()
        # On CUDA some of them are slow or missing; there the run is as exact as PyTorch's defaults.
        torch.use_deterministic_algorithms(not torch.cuda.is_available())
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self.before)


def _printer(progress: bool) -> Say:
    return (lambda line: print(line, flush=True)) if progress else (lambda line: None)
