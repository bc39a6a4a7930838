"""One run: its parts put together, resumed or begun, trained, saved, finished."""

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.checkpoint.store import Checkpoint
from gpt2.data import Prepared
from gpt2.data.loader import BatchLoader
from gpt2.errors import StoppedError, UserError
from gpt2.evaluation.bits_per_byte import Score
from gpt2.files import atomic_write, write_json
from gpt2.manifest import forget_manifest, write_manifest
from gpt2.model import GPT2
from gpt2.report import write_environment
from gpt2.settings import TrainSettings
from gpt2.tokenizer import Tokenizer
from gpt2.training import inputs
from gpt2.training.averaging import WeightAverage
from gpt2.training.compiling import compile_if
from gpt2.training.determinism import Deterministic, same_operations, uses_native
from gpt2.training.distributed import Processes, launch_name
from gpt2.training.finish import finish, sample_text, validate
from gpt2.training.guard import Guard
from gpt2.training.hooks import Metrics, Progress, Validation
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.optimizers import RECIPES, build_optimizer
from gpt2.training.parallel import parallelize
from gpt2.training.plan import Plan, count_steps
from gpt2.training.requests import Requests
from gpt2.training.run_state import RunState
from gpt2.training.saving import Contents, Saving
from gpt2.training.schedule import learning_rate_factor
from gpt2.training.snapshots import Snapshots
from gpt2.training.step_plan import StepPlan
from gpt2.training.trainer import Hook, Trainer

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


class Session:
    """The parts of one run, put together: `go` trains and finishes it."""

    def __init__(
        self, settings: TrainSettings, plan: Plan, folder: RunFolder, model: GPT2, tokenizer: Tokenizer,
        prepared: Prepared, say: Say, progress: bool, processes: Processes,
    ) -> None:  # fmt: skip
        self.settings, self.plan, self.folder, self.model = settings, plan, folder, model
        self.tokenizer, self.prepared, self.say, self.progress = tokenizer, prepared, say, progress
        machine = plan.machine
        model.compute_dtype = machine.dtype if machine.dtype != torch.float32 else None
        self.loss = LanguageModelLoss(model)
        self.parallel, self.processes = parallelize(settings.run.parallel, self.loss, processes), processes
        choices = settings.optimization
        recipe = RECIPES[choices.optimizer]
        self.optimizer = build_optimizer(
            self.parallel.parameters, choices.optimizer, choices.lr or recipe.lr, choices.weight_decay or 0.0,
            dtype=torch.float32 if machine.dtype == torch.float32 else torch.bfloat16, **self.parallel.muon_options(),
        )  # fmt: skip
        micro_batch = processes.size * (settings.run.micro_batch_tokens or 2**62)
        tokens_per_step = (choices.batch_size or 1) * model.config.context_length
        self.average = WeightAverage(self.parallel.parameters)
        self.loader = BatchLoader(prepared.train, tokens_per_step, model.config.context_length, settings.run.seed)
        total = count_steps(settings, tokens_per_step, prepared.train.num_tokens)
        total, seconds = processes.from_main("length", (total, plan.seconds))
        self.trainer = Trainer(
            self.loss,
            self.optimizer,
            self.loader,
            StepPlan(total, seconds),
            partial(learning_rate_factor, warmup=choices.warmup, decay=choices.decay or recipe.decay,
                    hold=recipe.hold, floor=recipe.floor),
            micro_batches=-(-tokens_per_step // micro_batch),
            device=machine.device,
            grad_clip=choices.grad_clip,
            seed=settings.run.seed,
            parallel=self.parallel,
        )  # fmt: skip
        fingerprints = {"data": prepared.train.fingerprint, "tokenizer": tokenizer.fingerprint}
        self.state = RunState(folder, self.trainer, self.average, fingerprints)

    def go(self) -> TrainedRun:
        """Train and finish."""
        with self.folder.held(self._note) if self.processes.is_main else contextlib.nullcontext():
            self.fit()
            if self.trainer.stop_reason:
                self.say(f"stopped early: {self.trainer.stop_reason}")
            score = finish(
                self.settings, self.folder, self.model, self.tokenizer, self.prepared, self.trainer.state,
                self.say, self.guard.state.events, self.processes,
            )  # fmt: skip
        return TrainedRun(self.folder.path, self.model, self.tokenizer, score, self.trainer.state.step)

    def fit(self, extra_hooks: Sequence[Hook] = ()) -> None:
        """Resume or begin, train, and save, whatever ends the training.

        Raises:
            StoppedError: a signal came, or a file `STOP`.
            DivergedError: the run was given up.
            UserError: the last checkpoint cannot be written.
        """
        checkpoint = self._begin()
        self._compile(checkpoint)
        records = self.folder.metrics if self.processes.is_main else Path(os.devnull)
        self.metrics = Metrics(records, self.trainer.state.step)
        bar, requests = Progress(self.metrics, self.progress), Requests(self.folder.path, self.processes)
        self.guard = Guard(self.settings.optimization.on_divergence, self._go_back, partial(_report, self.metrics, bar))
        self.validation = self._validation(bar)
        self.saving = self._saving(requests, bar)
        if self.settings.run.save_every is None:
            self.validation.after = self.saving.ask
        if checkpoint is not None:
            self.validation.state = checkpoint.state["validation"]
            self.guard.load_state_dict(checkpoint.state["guard"])
        aborted, failed = False, True
        with requests, Deterministic(self.compiled), self.operations:
            snapshots = Snapshots(self.folder, self.model, self.average, self.settings.run.snapshots, bar.say)
            snapshots.begin(self.trainer)
            self.trainer.hooks = [bar, self.guard, self.validation, snapshots, self.saving, requests, *extra_hooks]
            try:
                self.trainer.fit()
                failed = False
            except KeyboardInterrupt:  # the second one: at once
                aborted = True
                raise
            finally:
                bar.close()
                self.metrics.close()
                if not aborted and not (failed and self.parallel.share):  # one that fails cannot save for the others
                    self._save_whatever_is_there()
        if requests.received is not None:
            self._tell_stop(requests.received)

    def _begin(self) -> Checkpoint | None:
        """The checkpoint to go on from, restored; or a folder made ready."""
        checkpoint = self.state.restore(self._note) if self.settings.run.resume else None
        self.operations = same_operations(self.plan.machine, self.model.kernels.name, checkpoint)
        if checkpoint is not None:
            self.say(f"  {'resumed':<9} at step {checkpoint.step:,} from {checkpoint.path}")
        if self.processes.is_main:
            if not self.settings.run.resume:
                self._claim()
            forget_manifest(self.folder.path)
            self.folder.stopped.unlink(missing_ok=True)
            self.folder.launch.unlink(missing_ok=True)
            if (name := launch_name()) is not None:
                self.folder.launch.write_text(name, encoding="utf-8")
        return checkpoint

    def _claim(self) -> None:
        self.folder.claim(self.settings.run.overwrite)
        self.tokenizer.save_pretrained(self.folder.path, model_max_length=self.model.config.context_length)
        stored = self.settings.changed(out=str(self.folder.path))
        write_environment(self.folder.environment, self.plan.lines(), self.plan.machine)
        with atomic_write(self.folder.config) as file:
            file.write(stored.to_toml("gpt2 train --config THIS_FILE makes this run again."))
        self.folder.samples.write_text("# Samples during training\n\n", encoding="utf-8")

    def _compile(self, checkpoint: Checkpoint | None) -> None:
        """As the settings say; a resumed run as it was before."""
        before = {True: "on", False: "off"}[checkpoint.state["compiled"]] if checkpoint else None
        example = self.loader.batch(0, 0, self.trainer.micro_batches)
        reason = compile_if(before or self.settings.run.compile, self.loss, self.plan.machine, example, self.parallel)
        self.compiled = reason.startswith("compile on")
        self.say(f"  {'because':<9} {reason}")

    def _contents(self) -> Contents:
        return self.state.contents(
            validation=dict(self.validation.state),
            guard=self.guard.state_dict(),
            compiled=self.compiled,
            native=uses_native(self.plan.machine, self.model.kernels.name),
        )

    def _saving(self, requests: Requests, bar: Progress) -> Saving:
        run = self.settings.run
        return Saving(
            self.folder.checkpoints, self._contents, self.guard, requests, bar.say,
            save_every=run.save_every, keep_every=run.keep_every,
            best_step=lambda: self.validation.state["best_step"], parallel=self.parallel,
        )  # fmt: skip

    def _validation(self, bar: Progress) -> Validation:
        run, choices, shards = self.settings.run, self.settings.optimization, self.prepared.valid
        # A forward pass costs a third of a step: 0.9 % of the tokens, ten times, is 3 % of the run.
        tokens = self.plan.expected_tokens(self.prepared.train.num_tokens)
        wanted = self.processes.from_main("validation", max(8192, int(0.09 * tokens / run.evals)))
        chosen = inputs.spread(shards, wanted)
        return Validation(
            self.folder,
            self.model,
            self.average,
            partial(validate, self.model, shards, chosen, self.tokenizer.eos_token_id, self.processes),
            partial(sample_text, self.model, self.tokenizer, run.prompt, run.seed),
            self.metrics,
            bar.say,
            evals=run.evals,
            patience=choices.patience,
        )

    def _go_back(self, before: int) -> int | None:
        """For the guard: to the newest good checkpoint of step `before` or earlier."""
        with contextlib.suppress(UserError):
            self.saving.background.wait()
        checkpoint = self.state.go_back(before)
        if checkpoint is None:
            return None
        self.metrics.forget(checkpoint.step)
        self.validation.go_back(self.trainer, checkpoint.state["validation"])
        return checkpoint.step

    def _save_whatever_is_there(self) -> None:
        """After the last step, a signal or an exception: a checkpoint, and a model that works."""
        if self.trainer.state.step == 0 or self.trainer.is_updating or self.guard.gave_up:
            return
        self.saving.finish(self.trainer)
        if self.validation.state["best_step"] is None:
            with self.validation.weights(), self.parallel.whole():
                if self.processes.is_main:
                    self.model.save_pretrained(self.folder.path)

    def _tell_stop(self, received: int) -> None:
        step = self.trainer.state.step
        # torchrun ends with 1 whatever its workers say: who wants to know how the run ended reads this file.
        if self.processes.is_main:
            write_json(self.folder.stopped, {"signal": signal.Signals(received).name, "step": step})
            write_manifest(self.folder.path)
        raise StoppedError(f"stopped at step {step:,}", f"gpt2 train --resume {self.folder.path}", received)

    def _note(self, sentence: str) -> None:
        self.say(f"  {'note':<9} {sentence}")


def _report(metrics: Metrics, bar: Progress, record: dict[str, Any], sentence: str) -> None:
    metrics.write(**record)
    if sentence:
        bar.say(sentence)
