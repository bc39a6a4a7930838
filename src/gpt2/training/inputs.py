"""What a run starts from: its settings, its text, its tokenizer."""

import dataclasses
from pathlib import Path

import numpy as np

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.data import Corpus, survey
from gpt2.data.shards import TokenShards
from gpt2.errors import ConfigError
from gpt2.settings import TrainSettings, read_toml
from gpt2.tokenizer import Tokenizer
from gpt2.training.distributed import launch_name

# More text than this does not change which pairs are most frequent.
_TOKENIZER_BYTES = 100_000_000

# What may be said anew when a run is resumed.
_OF_A_RESUME = ("resume", "plan", "out", "parallel")


def settings_to_resume(settings: TrainSettings) -> TrainSettings:
    """The stored settings of the run that `--resume` names.

    Raises:
        CheckpointError: there is no run.
        ConfigError: other settings were given with it.
    """
    folder = RunFolder(settings.run.resume or "")
    folder.require()
    default = TrainSettings().flat()
    changed = [k for k, v in settings.flat().items() if v != default[k] and k not in _OF_A_RESUME]
    given = ["--" + name.replace("_", "-") for name in changed]
    if given:
        raise ConfigError(
            f"a resumed run keeps its own settings, drop {', '.join(given)}; "
            f"to train on from its weights with other settings: --from {folder.path} --out NEW"
        )
    stored = TrainSettings.make(**read_toml(folder.config))
    if settings.run.parallel != "auto":
        stored = stored.changed(parallel=settings.run.parallel)
    return stored.changed(out=str(folder.path), resume=settings.run.resume, plan=settings.run.plan)


def settings_of_call(settings: TrainSettings, restarted: bool) -> TrainSettings:
    """As given; where `--resume` or a restart by torchrun continues a run, those of the run."""
    if restarted and not settings.run.resume:
        folder = RunFolder(settings.run.out or default_out(settings))
        if folder.launch.exists() and folder.launch.read_text(encoding="utf-8") == launch_name():
            settings = TrainSettings.make(resume=str(folder.path))
    return settings_to_resume(settings) if settings.run.resume else settings


def default_out(settings: TrainSettings) -> str:
    """`models/` and the name of the first text."""
    if not settings.data.text:
        return "models/bundled-stories"
    name = Path(settings.data.text[0]).name
    for ending in (".gz", ".txt", ".jsonl"):
        name = name.removesuffix(ending)
    return f"models/{name or 'model'}"


def survey_text(settings: TrainSettings, progress: bool) -> Corpus:
    """Count the documents and divide them; see `gpt2.data.survey`."""
    options = dataclasses.asdict(settings.data)
    del options["tokenizer"]
    return survey(options.pop("text"), progress=progress, **options)


def obtain_tokenizer(settings: TrainSettings, corpus: Corpus, vocab_size: int, base: Tokenizer | None) -> Tokenizer:
    """The base model's tokenizer, the given one, or one trained on the training documents.

    Raises:
        TokenizerError: a file is damaged, or the text does not support the vocabulary that was asked for.
    """
    if base is not None:
        return base
    if settings.data.tokenizer is not None:
        return Tokenizer.load(settings.data.tokenizer)
    asked = settings.model.vocab_size is not None
    return Tokenizer.train(corpus.training_texts(_TOKENIZER_BYTES), vocab_size, allow_fewer=not asked)


def spread(shards: TokenShards, max_tokens: int) -> list[int]:
    """Numbers of documents spread evenly over the shards, with about `max_tokens` tokens together."""
    share = max(1.0, shards.num_tokens / max_tokens)
    count = max(1, round(shards.num_documents / share))
    return np.linspace(0, shards.num_documents - 1, count).round().astype(int).tolist()
