"""`prepare`: tokenise text once into shards under the cache, whatever interrupts it."""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.data.cache import cache_folder, exclusive, key_of
from gpt2.data.corpus import Corpus, Source, survey
from gpt2.data.shard_writer import SHARD_IDS, EncodedPieces, write_shards
from gpt2.data.shards import VERSION, TokenShards
from gpt2.data.verified import Verified
from gpt2.documents import Piece
from gpt2.errors import DataError, UserError
from gpt2.files import require_free_space
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.bulk import id_bytes
from gpt2.tokenizer.parallel import default_workers, encode_stream

_PARALLEL_BYTES = 8_000_000  # less is done before the workers have started


@dataclass(frozen=True)
class Prepared:
    """Tokenised training and validation documents."""

    train: TokenShards
    valid: TokenShards
    notes: list[str]
    """How the text was divided and what is odd about it, in sentences."""
    cached: bool
    """Whether the shards were there already."""


def prepare(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    **options: Any,
) -> Prepared:
    """Tokenise text into shards, or find them done: `survey`, then `prepare_corpus`.

    Args:
        sources: files and folders; none: the bundled stories.
        tokenizer: gives the ids.
        cache: folder for derived data; None: `$GPT2_CACHE`, else the user's cache folder.
        workers: processes; None: as many as help. The shards do not depend on it.
        progress: show bars.
        **options: of `survey`: `valid`, `fraction`, `valid_fraction`, `split`, `text_field`,
            `encoding_errors`.

    Raises:
        DataError: a file is missing, empty, not text, or too short to divide.
        UserError: the disk is full or cannot be written; nothing is left behind.
    """
    corpus = survey(sources, cache=cache, progress=progress, **options)
    return prepare_corpus(corpus, tokenizer, cache=cache, workers=workers, progress=progress)


def prepare_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    shard_ids: int = SHARD_IDS,
) -> Prepared:
    """Tokenise a surveyed corpus into shards, or find them done; see `prepare`.

    The shards appear under their final name only when complete. A run that was killed is continued
    by the next from its last finished shard.
    """
    root = cache_folder(cache) / "shards"
    final = root / key_of(VERSION, corpus.key, tokenizer.fingerprint, shard_ids)
    notes = list(corpus.notes)
    if final.exists():
        try:
            return Prepared(*_open(final, cache), notes, cached=True)
        except DataError as error:
            notes.append(f"the cached shards were damaged and are made anew ({error})")
            shutil.rmtree(final)
    itemsize = id_bytes(tokenizer.vocab_size)
    # English needs about a third of an id per byte; a disk that fills up all the same is an error too.
    needed = (corpus.num_bytes + corpus.num_valid_bytes) * itemsize // 3 + 16 * len(corpus.documents)
    require_free_space(root, needed, "the tokenised text")
    if workers is None:
        workers = default_workers() if corpus.num_bytes > _PARALLEL_BYTES else 1
    try:
        with _work_folder(final) as work:
            for name, pieces, size in (
                ("valid", corpus.validation_pieces, corpus.num_valid_bytes),
                ("train", corpus.training_pieces, corpus.num_bytes),
            ):
                with _bar(f"tokenising {name}", size, progress) as bar:
                    encoded = _encoder(tokenizer, pieces, workers if name == "train" else 1, bar)
                    write_shards(work / name, tokenizer, encoded, shard_ids=shard_ids)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or final}: {error.strerror or error}") from error
    return Prepared(*_open(final, cache), notes, cached=False)


def _open(folder: Path, cache: str | Path | None) -> tuple[TokenShards, TokenShards]:
    train, valid = (
        TokenShards.open(part, known=Verified(part, cache)) for part in (folder / "train", folder / "valid")
    )
    return train, valid


def _encoder(
    tokenizer: Tokenizer, pieces: Callable[[], Iterator[Piece]], workers: int, bar: Any
) -> Callable[[int], Iterator[EncodedPieces]]:
    dtype = np.dtype(f"<u{id_bytes(tokenizer.vocab_size)}")

    def encoded_after(documents: int) -> Iterator[EncodedPieces]:
        # Two views of one stream: the texts for the encoder, where documents end for its results.
        texts, ends = itertools.tee(_skip(pieces(), documents, bar))
        results = encode_stream(tokenizer, (text for text, _ in texts), workers)
        with contextlib.closing(results):
            for result in results:
                bar.update(sum(result.num_bytes))
                last = [end for _, end in itertools.islice(ends, len(result.counts))]
                ids = np.frombuffer(result.ids, dtype)
                yield EncodedPieces(ids, np.array(result.counts), np.array(result.num_bytes), np.array(last))

    return encoded_after


def _skip(pieces: Iterator[Piece], documents: int, bar: Any) -> Iterator[Piece]:
    for text, last in pieces:
        if documents:
            documents -= last
            bar.update(len(text))
        else:
            yield text, last


@contextlib.contextmanager
def _work_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `final` at the end.

    It has a fixed name, so that the next run finds what an interrupted one finished. If another
    process works there right now, this one takes a folder of its own; who ends first wins.
    """
    with exclusive(final.with_suffix(".lock")) as alone:
        if alone:
            work = final.with_suffix(".partial")
            work.mkdir(exist_ok=True)
        else:
            work = Path(tempfile.mkdtemp(prefix=f"{final.name}.partial-", dir=final.parent))
        try:
            yield work
            try:
                work.rename(final)
            except OSError:
                if not final.exists():
                    raise
                shutil.rmtree(work)
        except BaseException as error:
            if not alone or isinstance(error, (UserError, OSError)):  # a full disk is left as it was found
                shutil.rmtree(work, ignore_errors=True)
            raise


def _bar(description: str, total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=description,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None if progress else True,
    )
