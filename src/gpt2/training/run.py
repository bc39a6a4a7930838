"""From text to a trained model folder: what `gpt2 train` does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint.hub import is_hub_name, pinned
from gpt2.checkpoint.load import load
from gpt2.checkpoint.run_folder import RunFolder
from gpt2.config import GPT2Config
from gpt2.data import Prepared, prepare_corpus
from gpt2.device import examine
from gpt2.files import require_free_space
from gpt2.model import GPT2
from gpt2.settings import TrainSettings
from gpt2.tokenizer import Tokenizer
from gpt2.training import inputs
from gpt2.training.choices import TextFigures
from gpt2.training.distributed import Processes, joined
from gpt2.training.parallel import reason
from gpt2.training.plan import Plan, check_context, make_plan, resolve
from gpt2.training.session import Say, Session, TrainedRun
from gpt2.training.trust import trusted


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
    """Plan, prepare, train, finish; see `train`. Under `torchrun`, each process calls this."""
    with joined() as processes:
        session = assemble(settings, progress=progress, processes=processes)
        return session and session.go()


@dataclass(frozen=True)
class _Parts:
    """What a session is made of."""

    settings: TrainSettings
    plan: Plan
    folder: RunFolder
    tokenizer: Tokenizer
    prepared: Prepared
    config: GPT2Config
    base: GPT2 | None


def assemble(settings: TrainSettings, *, progress: bool = True, processes: Processes | None = None) -> Session | None:
    """Plan and prepare: everything of a run but the training; None if only the plan is wanted.

    Of several processes rank 0 decides and prepares; the others take its settings and find its data.
    """
    processes = processes or Processes()
    say = _printer(progress and processes.is_main)
    with processes.main_first("prepare"):
        if processes.is_main:
            parts = _prepare(inputs.settings_of_call(settings, processes.restarted), None, processes, say, progress)
            processes.from_main("parts", parts and _told(parts))
        else:
            told = processes.from_main("parts", None)
            parts = told and _prepare(*_from_told(told), processes, say, False)
    if parts is None:
        return None
    processes.connect()
    model = GPT2(parts.config, parts.settings.run.kernels, torch.Generator().manual_seed(parts.settings.run.seed))
    if parts.base:
        model.load_state_dict(parts.base.state_dict())
    model.generation_defaults = (parts.base.generation_defaults if parts.base else {}) or {"temperature": 0.8}
    return Session(
        parts.settings, parts.plan, parts.folder, model.to(parts.plan.machine.device), parts.tokenizer, parts.prepared,
        say, progress and processes.is_main, processes,
    )  # fmt: skip


def _prepare(
    settings: TrainSettings, tokenizer: Tokenizer | None, processes: Processes, say: Say, progress: bool
) -> _Parts | None:
    folder = RunFolder(settings.run.out or inputs.default_out(settings))
    if processes.is_main and not settings.run.plan and not settings.run.resume:
        folder.refuse_if_taken(settings.run.overwrite)
    machine, kernels = trusted(
        examine(processes.own_device(settings.run.device), settings.run.dtype, settings.run.threads),
        settings.run.kernels,
        choose_dtype=settings.run.dtype == "auto",
        fall_back=processes.is_main and not settings.run.resume,
    )
    settings = settings.changed(kernels=kernels)
    if processes.size > 1:
        machine = replace(machine, processes=processes.size, reasons=[*machine.reasons, reason(settings, processes)])
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
    if tokenizer is None and settings.run.resume:
        tokenizer = Tokenizer.load(folder.path)
    elif tokenizer is None:
        tokenizer = inputs.obtain_tokenizer(settings, corpus, plan.vocab_size, base[1] if base else None)
    prepared = prepare_corpus(corpus, tokenizer, progress=progress)
    settings, config = resolve(plan, tokenizer.vocab_size, tokenizer.eos_token_id, base is None)
    check_context(config, prepared.train.num_tokens)
    return _Parts(settings, plan, folder, tokenizer, prepared, config, base and base[0])


def _told(parts: _Parts) -> dict[str, Any]:
    """What the other processes need to know, as JSON values."""
    return {"settings": parts.settings.flat(), "tokenizer": parts.tokenizer.__reduce__()[1]}


def _from_told(told: dict[str, Any]) -> tuple[TrainSettings, Tokenizer]:
    definition, eos_token = told["tokenizer"]
    return TrainSettings.make(**told["settings"]), Tokenizer(definition, eos_token=eos_token)


def _printer(progress: bool) -> Say:
    return (lambda line: print(line, flush=True)) if progress else (lambda line: None)
