"""Loss, perplexity and bits per byte, by the one definition used everywhere in the project.

Each document is scored on its own as ids = <|endoftext|> + tokens + <|endoftext|>; every id after the
first is predicted. With T the context and S = max(1, T // 2), window k feeds ids[k S : k S + T], predicts
ids[k S + 1 : k S + T + 1] and scores only those not scored before, until the end.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gpt2.errors import DataError
from gpt2.evaluation.bootstrap import LEVEL, Interval, ratio_interval
from gpt2.evaluation.cores import Cores, usable_cores
from gpt2.model import GPT2, Segments

# Tokens per forward pass: enough to keep the processor busy, little enough to stay in memory.
_TOKENS_PER_BATCH = {"cpu": 2048}
# Logits alive at once: on a CPU few enough to stay in a core's cache, where their softmax takes half the time.
_LOGITS = {"cpu": 2**19}


@dataclass(frozen=True)
class Score:
    """What each document costs the model."""

    nats: np.ndarray
    """(documents,) float64: sum of -ln p over the document's predicted ids."""
    tokens: np.ndarray
    """(documents,) int64: predicted ids, the closing `<|endoftext|>` included."""
    num_bytes: np.ndarray
    """(documents,) int64: UTF-8 bytes of the text."""

    @property
    def loss(self) -> float:
        """Mean cross-entropy per token, in nats."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits the model needs per byte of text; independent of the tokenizer."""
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Bootstrap interval of `bits_per_byte` over documents; None with a single one."""
        return ratio_interval(self.nats / math.log(2), self.num_bytes, level=level)


@dataclass(frozen=True)
class _Window:
    document: int
    start: int
    length: int
    skip: int
    """Predictions at its start that an earlier window has scored."""


def score_documents(
    model: GPT2, documents: Sequence[np.ndarray], num_bytes: Sequence[int] | np.ndarray, end_of_text: int
) -> Score:
    """Score documents, without padding: windows of similar length are packed end to end.

    Args:
        model: on any device; scored in its `compute_dtype`.
        documents: ids of each, the leading `<|endoftext|>` included, the closing one not.
        num_bytes: UTF-8 bytes of each document's text.
        end_of_text: id of `<|endoftext|>`.

    Raises:
        DataError: there are no documents.
    """
    with model.evaluating():
        ids, batches = _planned(model, documents, end_of_text)
        with Cores(min(len(batches), usable_cores(model))) as cores:
            return _begun(cores, model, ids, batches, num_bytes)()


def begin_scoring(
    cores: Cores, model: GPT2, documents: Sequence[np.ndarray], num_bytes: Sequence[int] | np.ndarray, end_of_text: int
) -> Callable[[], Score]:
    """The same as tasks for `cores`; a function that waits for them. The model must be in evaluation mode.

    Raises:
        DataError: there are no documents.
    """
    return _begun(cores, model, *_planned(model, documents, end_of_text), num_bytes)


def _planned(
    model: GPT2, documents: Sequence[np.ndarray], end_of_text: int
) -> tuple[list[np.ndarray], list[list[_Window]]]:
    """Ids of each document, and the windows of each forward pass."""
    if len(documents) == 0:
        raise DataError("there are no documents to evaluate on")
    ids = [np.append(np.asarray(document, dtype=np.int64), end_of_text) for document in documents]
    windows = [
        window for i, document in enumerate(ids) for window in _windows(i, len(document), model.config.context_length)
    ]
    windows.sort(key=lambda window: -window.length)
    device = next(model.parameters()).device
    return ids, list(_batches(windows, _TOKENS_PER_BATCH.get(device.type, 4096)))


def _begun(
    cores: Cores,
    model: GPT2,
    ids: list[np.ndarray],
    batches: list[list[_Window]],
    num_bytes: Sequence[int] | np.ndarray,
) -> Callable[[], Score]:
    found = [cores.submit(_sums, model, ids, batch) for batch in batches]

    def collect() -> Score:
        nats = np.zeros(len(ids))
        for batch, sums in zip(batches, found, strict=True):
            for window, total in zip(batch, sums.result(), strict=True):
                nats[window.document] += total
        tokens = np.array([len(document) - 1 for document in ids])
        return Score(nats, tokens, np.asarray(num_bytes, dtype=np.int64))

    return collect


def _windows(document: int, num_ids: int, context: int) -> Iterator[_Window]:
    stride, scored, start = max(1, context // 2), 0, 0
    while scored < num_ids - 1:
        length = min(context, num_ids - 1 - start)
        yield _Window(document, start, length, scored - start)
        scored, start = start + length, start + stride


def _batches(windows: list[_Window], tokens: int) -> Iterator[list[_Window]]:
    batch: list[_Window] = []
    size = 0
    for window in windows:
        if batch and size + window.length > tokens:
            yield batch
            batch, size = [], 0
        batch.append(window)
        size += window.length
    if batch:
        yield batch


def _sums(model: GPT2, ids: list[np.ndarray], windows: list[_Window]) -> list[float]:
    with torch.inference_mode():
        return [losses.double().sum().item() for losses in _losses(model, ids, windows)]


def _losses(model: GPT2, ids: list[np.ndarray], windows: list[_Window]) -> Sequence[torch.Tensor]:
    device = next(model.parameters()).device
    lengths = [window.length for window in windows]
    slices = [ids[w.document][w.start : w.start + w.length + 1] for w in windows]
    inputs = torch.from_numpy(np.concatenate([part[:-1] for part in slices])).to(device)
    targets = torch.from_numpy(np.concatenate([part[1:] for part in slices])).to(device)
    x = model.hidden(inputs[None], segments=Segments(lengths))[0]
    scored = torch.cat([torch.arange(w.length) >= w.skip for w in windows]).to(device)
    x, targets = x[scored], targets[scored]
    weight, kernels = model.transformer.wte.weight, model.kernels
    rows_at_once = max(1, _LOGITS.get(device.type, 2**24) // len(weight))
    blocks = zip(x.split(rows_at_once), targets.split(rows_at_once), strict=True)
    losses = torch.cat([kernels.cross_entropy(kernels.unembed(rows, weight), target) for rows, target in blocks])
    return losses.cpu().split([window.length - window.skip for window in windows])
