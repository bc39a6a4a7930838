"""Confidence intervals by resampling documents: how much another sample of such text would move a figure.

The percentile bootstrap (Efron, 1979) with whole documents as the unit, since tokens within one are not
independent. With fewer than about 30 documents percentile intervals come out too narrow.
"""

import math
from collections.abc import Iterator

import numpy as np

LEVEL = 0.95
_RESAMPLES = 2000
_CHUNK = 1 << 22  # numbers drawn at once

Interval = tuple[float, float]


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, level: float = LEVEL, seed: int = 0
) -> Interval | None:
    """Interval for sum(numerators) / sum(denominators) over resampled documents; see `ratio_estimate`."""
    return ratio_estimate(numerators, denominators, level=level, seed=seed)[0]


def ratio_estimate(
    numerators: np.ndarray, denominators: np.ndarray, *, level: float = LEVEL, seed: int = 0
) -> tuple[Interval | None, float]:
    """How far sum(numerators) / sum(denominators) is known, over resampled documents.

    Args:
        numerators: (documents,), such as bits.
        denominators: (documents,), such as bytes; positive in sum.
        level: coverage, in (0, 1).
        seed: of the draws; the same seed resamples the same documents.

    Returns:
        (low, high) and the standard error; None and infinity with a single document, from which nothing can be said.
    """
    ratios = _ratios(numerators, denominators, seed)
    if ratios is None:
        return None, math.inf
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high)), float(ratios.std())


def mean_interval(values: np.ndarray, *, level: float = LEVEL, seed: int = 0) -> Interval | None:
    """Interval for the mean of one value per document; values that are NaN do not count."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return ratio_interval(values, np.ones(len(values)), level=level, seed=seed)


def _ratios(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> np.ndarray | None:
    """The ratio in each resample; (resamples,)."""
    numerators, denominators = np.asarray(numerators, float), np.asarray(denominators, float)
    if len(numerators) < 2:
        return None
    ratios = []
    for counts in _resamples(len(numerators), seed):
        below = counts @ denominators
        ratios.append((counts @ numerators)[below > 0] / below[below > 0])
    return np.concatenate(ratios)


def _resamples(documents: int, seed: int) -> Iterator[np.ndarray]:
    """How often each document is drawn: (resamples, documents), in chunks of bounded size."""
    draw = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // documents)
    for start in range(0, _RESAMPLES, chunk):
        rows = min(chunk, _RESAMPLES - start)
        drawn = draw.integers(documents, size=(rows, documents)) + np.arange(rows)[:, None] * documents
        yield np.bincount(drawn.ravel(), minlength=rows * documents).reshape(rows, documents).astype(float)
