"""The longest passage that a text shares with a large one: exact in lengths, one pass, bounded memory.

The few texts that are asked about are kept as sorted hashes of all their n-grams; the large text streams past them.
A position of it can share n + 1 ids only if it shares n, so almost all of the work is one look-up per position in
a table of bits, and what is left shrinks with every n. Two n-grams are taken for equal if their 64-bit hashes are.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from gpt2.data.shards import TokenShards

SHORTEST = 8
"""Ids; shared passages shorter than this count as none. Eight ids are about six words."""

_CHUNK = 1 << 18  # ids at once: the working arrays stay in the processor's cache
_FILTER_BITS = 22
_FILTERED = SHORTEST + 8  # beyond, so few positions are left that the filter costs more than it spares
_BASE = np.uint64(0x9E3779B97F4A7C15)


def longest_shared(
    queries: Sequence[np.ndarray], large: TokenShards | np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The longest run of ids that each query has in common with a large text.

    Args:
        queries: ids of each text, without `<|endoftext|>` (a passage does not run over the end of a document).
        large: the text; read in pieces.
        vocab_size: number of ids.

    Returns:
        Lengths, and where in the query the run begins; both int64 (queries,). The length is 0 where fewer than
        `SHORTEST` ids are shared.
    """
    values = np.random.default_rng(0).integers(0, 1 << 64, size=vocab_size + 1, dtype=np.uint64)
    tables = _Tables(queries, values)
    if tables.has(SHORTEST):
        for piece in _pieces(large, overlap=max(map(len, queries))):
            _mark(piece, values, tables)
    return tables.longest(len(queries))


class _Tables:
    """For each n, the hashes of all n-grams of the queries, and which of them have been seen."""

    def __init__(self, queries: Sequence[np.ndarray], values: np.ndarray) -> None:
        self.owner = np.repeat(np.arange(len(queries)), [len(query) for query in queries])
        self.left = np.concatenate([np.arange(len(query), 0, -1) for query in queries] or [np.empty(0, int)])
        """Ids from each position to the end of its query."""
        self.ids_values = values[np.concatenate([*queries, []]).astype(np.int64)]
        self._hashes = [np.zeros(len(self.owner), np.uint64)]
        self._levels: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}

    def has(self, n: int) -> bool:
        """Whether any query is as long."""
        return bool((self.left >= n).any())

    def level(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(sorted hashes, which were seen, a filter: True where the upper bits of a hash may be one of them)."""
        if n not in self._levels:
            hashes = np.sort(self._hash(n)[self.left >= n])  # of equal ones the first stands for all
            possible = None
            if n < _FILTERED:
                possible = np.zeros(1 << _FILTER_BITS, bool)
                possible[_upper(hashes)] = True
            self._levels[n] = hashes, np.zeros(len(hashes), bool), possible
        return self._levels[n]

    def longest(self, queries: int) -> tuple[np.ndarray, np.ndarray]:
        """The longest n-gram of each query that was seen: its length and its place."""
        lengths, starts = np.zeros(queries, np.int64), np.zeros(queries, np.int64)
        first = np.searchsorted(self.owner, np.arange(queries))
        for n, (hashes, seen, _) in sorted(self._levels.items()):
            places = np.flatnonzero(self.left >= n)
            shared = places[seen[np.searchsorted(hashes, self._hash(n)[places])]]
            lengths[self.owner[shared]] = n
            starts[self.owner[shared]] = shared - first[self.owner[shared]]
        return lengths, starts

    def _hash(self, n: int) -> np.ndarray:
        """Hashes of the n ids from each position; meaningless where fewer are left."""
        while len(self._hashes) <= n:
            following = np.roll(self.ids_values, 1 - len(self._hashes))
            self._hashes.append(self._hashes[-1] * _BASE + following)
        return self._hashes[n]


def _mark(piece: np.ndarray, values: np.ndarray, tables: _Tables) -> None:
    """Mark every n-gram of the tables that occurs in a piece of the large text."""
    ids = values[piece]
    hashes, width = ids, 1
    while width < SHORTEST and len(hashes) > width:
        hashes, width = hashes[:-width] * _BASE ** np.uint64(width) + hashes[width:], 2 * width
    if width < SHORTEST:
        return
    places: np.ndarray | None = None
    n = SHORTEST
    while tables.has(n):
        known, seen, possible = tables.level(n)
        passed = np.arange(len(hashes)) if possible is None else np.flatnonzero(possible[_upper(hashes)])
        candidates = hashes[passed]
        at = np.minimum(np.searchsorted(known, candidates), len(known) - 1)
        same = known[at] == candidates
        seen[at[same]] = True
        kept = passed[same]
        places = kept if places is None else places[kept]
        places = places[places + n < len(ids)]
        hashes = hashes[kept][: len(places)] * _BASE + ids[places + n]
        n += 1
        if not len(places):
            return


def _upper(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)


def _pieces(large: TokenShards | np.ndarray, overlap: int) -> Iterator[np.ndarray]:
    """Stretches of the text, each with the beginning of the next."""
    total = large.num_tokens if isinstance(large, TokenShards) else len(large)
    for start in range(0, total, _CHUNK):
        stop = min(total, start + _CHUNK + overlap)
        yield large.read(start, stop) if isinstance(large, TokenShards) else large[start:stop]
