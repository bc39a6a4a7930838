"""From text to a trained model folder: what `gpt2 train` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint.hub import is_hub_name, pinned
from gpt2.checkpoint.load import load
from gpt2.checkpoint.run_folder import RunFolder
from gpt2.data import prepare_corpus
from gpt2.device import examine
from gpt2.files import require_free_space
from gpt2.model import GPT2
from gpt2.settings import TrainSettings
from gpt2.tokenizer import Tokenizer
from gpt2.training import inputs
from gpt2.training.choices import TextFigures
from gpt2.training.plan import check_context, make_plan, resolve
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
    """Plan, prepare, train, finish; see `train`."""
    session = assemble(settings, progress=progress)
    return session and session.go()


def assemble(settings: TrainSettings, *, progress: bool = True) -> Session | None:
    """Plan and prepare: everything of a run but the training; None if only the plan is wanted."""
    say = _printer(progress)
    if settings.run.resume:
        settings = inputs.settings_to_resume(settings)
    folder = RunFolder(settings.run.out or inputs.default_out(settings))
    if not settings.run.plan and not settings.run.resume:
        folder.refuse_if_taken(settings.run.overwrite)
    machine, kernels = trusted(
        examine(settings.run.device, settings.run.dtype, settings.run.threads),
        settings.run.kernels,
        choose_dtype=settings.run.dtype == "auto",
        fall_back=not settings.run.resume,
    )
    settings = settings.changed(kernels=kernels)
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
    model = GPT2(config, settings.run.kernels, torch.Generator().manual_seed(settings.run.seed))
    if base:
        model.load_state_dict(base[0].state_dict())
    model.generation_defaults = (base[0].generation_defaults if base else {}) or {"temperature": 0.8}
    return Session(settings, plan, folder, model.to(machine.device), tokenizer, prepared, say, progress)


def _printer(progress: bool) -> Say:
    return (lambda line: print(line, flush=True)) if progress else (lambda line: None)
