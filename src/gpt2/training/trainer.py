"""The training loop. It takes any module that gives a loss sum, and knows no GPT."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn

from gpt2.data.loader import BatchLoader
from gpt2.training.optimizers import Optimizer, gradient_norm
from gpt2.training.parallel import Alone
from gpt2.training.step_plan import StepPlan


@dataclass
class TrainerState:
    """Where a run stands; with the weights, the optimizer and the plan, all that resuming needs."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on."""
    seconds: float = 0.0
    """Time spent, validations included."""
    skipped: int = 0
    """Updates left out because the loss or the gradient was not finite."""
    passed_over: int = 0
    """Batches that a run which went back (training/guard.py) leaves out."""
    rate: float = 1.0
    """Factor on the learning rate, lowered after a divergence."""


@dataclass(frozen=True)
class StepResult:
    """What one step gave."""

    loss: float
    """Mean cross-entropy over the tokens of the step, in nats."""
    grad_norm: float
    factor: float
    """Factor on the learning rate."""
    tokens: int
    culprit: str | None = None
    """The first parameter whose gradient is not finite, where the update was left out."""


class Hook(Protocol):
    """Called after each step; may validate, save, or set `trainer.stop_reason`."""

    def __call__(self, trainer: "Trainer", result: StepResult) -> None:
        """One step is done."""
        ...


class Trainer:
    """Forward, backward, update; again.

    Args:
        module: called with a batch, gives (loss sum, tokens); its parameters are trained.
        optimizer: steps at a factor of its learning rate.
        loader: gives the batch of any step.
        plan: how far the run has come.
        schedule: progress -> factor on the learning rate.
        micro_batches: forward passes per step and process; the gradient is the same for any number.
        device: where batches go.
        grad_clip: largest norm of the gradient; None: any.
        seed: of dropout, with step and micro-batch.
        hooks: called in order after each step.
        parallel: how several processes train the module together; None: this one alone.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        loader: BatchLoader,
        plan: StepPlan,
        schedule: Callable[[float], float],
        *,
        micro_batches: int = 1,
        device: torch.device | str = "cpu",
        grad_clip: float | None = None,
        seed: int = 0,
        hooks: Sequence[Hook] = (),
        parallel: Alone | None = None,
    ) -> None:
        self.parallel = parallel or Alone(module)
        self.optimizer, self.loader, self.plan, self.schedule = optimizer, loader, plan, schedule
        self.micro_batches, self.device = micro_batches, torch.device(device)
        self.grad_clip, self.seed, self.hooks = grad_clip, seed, hooks
        self.parameters = list(self.parallel.parameters.values())
        self.state = TrainerState()
        self.stop_reason: str | None = None
        self.is_updating = False
        """Whether weights, optimizer and step count may disagree just now: nothing to save."""
        self._resumed_at, self._started = 0.0, 0.0

    def fit(self) -> None:
        """Train until the plan is done or a hook gives a reason to stop."""
        self._started, self._resumed_at = time.perf_counter(), self.state.seconds
        self.parallel.module.train()
        while self.progress < 1.0 and self.stop_reason is None:
            result = self.train_step()
            for hook in self.hooks:
                hook(self, result)

    def train_step(self) -> StepResult:
        """One optimizer step; skipped, and counted, if the loss or the gradient is not finite."""
        factor, culprit = self.schedule(self.progress) * self.state.rate, None
        tokens, processes = self.loader.tokens_per_step, self.parallel.processes
        loss = torch.zeros((), device=self.device)
        for number in range(self.micro_batches):
            part, parts = number * processes.size + processes.rank, self.micro_batches * processes.size
            self._seed_dropout(part)
            batch = self.loader.batch(self.state.step + self.state.passed_over, part, parts).to(self.device)
            with self.parallel.accumulation(last=number == self.micro_batches - 1):
                loss_sum, _ = self.parallel.module(batch)
                (loss_sum / (tokens / processes.size)).backward()  # the processes' gradients are averaged
            loss += loss_sum.detach() / tokens
        self.parallel.collect_gradients()
        mean_loss, grad_norm, self.state.seconds = self.parallel.agree(
            loss, gradient_norm(self.parameters), self.elapsed
        )
        if mean_loss - mean_loss == 0.0 == grad_norm - grad_norm:  # both finite
            self._clip(grad_norm)
            self.is_updating = True
            self.optimizer.step(factor)
        else:
            self.state.skipped += 1
            culprit = self._culprit()
        self.parallel.drop_gradients()
        self.state.step += 1
        self.state.tokens += tokens
        self.is_updating = False
        return StepResult(mean_loss, grad_norm, factor, tokens, culprit)

    @property
    def elapsed(self) -> float:
        """Seconds of the whole run up to now, earlier sessions of it included; of this process's own clock."""
        return self._resumed_at + time.perf_counter() - self._started

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.plan.progress(self.state.step, self.state.seconds)

    def state_dict(self) -> dict[str, Any]:
        """Everything but weights and optimizer, as JSON values."""
        seconds = self.elapsed if self._started else self.state.seconds  # a validation may have come after the step
        return {"trainer": {**asdict(self.state), "seconds": seconds}, "plan": self.plan.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.state = TrainerState(**state["trainer"])
        self.plan.load_state_dict(state["plan"])

    def _seed_dropout(self, part: int) -> None:
        # A function of (seed, step, micro-batch) alone, so that a resumed run draws the same masks.
        torch.manual_seed(((self.seed * 1_000_003 + self.state.step) * 1_009 + part) % 2**63)

    def _clip(self, norm: float) -> None:
        if self.grad_clip is not None and norm > self.grad_clip:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.grad_clip / norm)

    def _culprit(self) -> str | None:
        pairs = self.parallel.parameters.items()
        return next((name for name, p in pairs if p.grad is not None and not p.grad.isfinite().all()), None)
