"""The text that a model is judged on, and the text that it learned from."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gpt2.checkpoint import RunFolder
from gpt2.checkpoint.demo import located
from gpt2.data import Corpus, TokenShards, iter_documents, prepare_corpus, survey
from gpt2.documents import Piece
from gpt2.errors import DataError
from gpt2.settings import TrainSettings, read_toml
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True)
class Judged:
    """Documents to judge models on; any tokenizer can encode them."""

    texts: list[str]
    source: str
    """What they are, for people."""

    @cached_property
    def num_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each document, int64 (documents,)."""
        return np.array([len(text.encode()) for text in self.texts], np.int64)

    def encode(self, tokenizer: Tokenizer) -> list[np.ndarray]:
        """Ids of each document, the leading `<|endoftext|>` included, the closing one not."""
        start = tokenizer.eos_token_id
        return [np.array([start, *ids], np.int64) for ids in tokenizer.encode_batch(self.texts)]

    def first(self, count: int) -> "Judged":
        """`count` documents spread evenly, or all."""
        if count >= len(self.texts):
            return self
        chosen = np.linspace(0, len(self.texts) - 1, count).round().astype(int)
        return Judged([self.texts[i] for i in chosen], self.source)


def from_files(sources: Sequence[str | Path], **text_format: str) -> Judged:
    """Every document of files or folders; keywords as `TextFormat`'s.

    Raises:
        DataError: a file is missing, empty or not text.
    """
    return Judged(list(iter_documents(sources, **text_format)), ", ".join(map(str, sources)))


def held_out(model: str | Path, corpus: Corpus | None) -> Judged:
    """The documents that a run held out.

    Raises:
        DataError: there is no such run.
    """
    if corpus is None and not located(model).exists() and not str(model).startswith("hf:"):
        raise DataError(f"there is no model at {model}")
    if corpus is None:
        raise DataError(f"{model} was not trained here, so it has no held-out text; give a text to evaluate on")
    return Judged(list(_join(corpus.validation_pieces())), "the documents that the run held out")


def corpus_of(model: str | Path, *, progress: bool = True) -> Corpus | None:
    """The text of the run that `model` is; None: it is no run folder.

    Raises:
        DataError: the text is no longer where it was.
    """
    folder = RunFolder(model)
    if not folder.config.is_file():
        return None
    options = asdict(TrainSettings.make(**read_toml(folder.config)).data)
    del options["tokenizer"]
    return survey(options.pop("text"), progress=progress, **options)


def leak_note(judged: Judged, corpus: Corpus | None, model: str | Path) -> str | None:
    """A sentence if a run has learned from documents that it is judged on; None: it has not, or is no run."""
    if corpus is None or corpus.cut_share is not None:
        return None
    learned = corpus.documents.hashes[: len(corpus.held_out)][~corpus.held_out]
    hashes = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest(), "little") for t in judged.texts]
    seen = int(np.isin(np.array(hashes, np.uint64), learned).sum())
    if not seen:
        return None
    return (
        f"{seen:,} of these {len(hashes):,} documents also stand in the training text of {model}: "
        f"it looks better than it is"
    )


def training_shards(corpus: Corpus, tokenizer: Tokenizer, *, progress: bool = True) -> TokenShards:
    """The training documents of a corpus as ids; from the cache if they were used before."""
    return prepare_corpus(corpus, tokenizer, progress=progress).train


def _join(pieces: Iterable[Piece]) -> Iterator[str]:
    parts: list[str] = []
    for text, last in pieces:
        parts.append(text)
        if last:
            yield "".join(parts)
            parts = []
