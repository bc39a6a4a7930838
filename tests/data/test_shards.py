import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data.shard_writer import EncodedPieces, write_shards
from gpt2.data.shards import TokenShards, sealed
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer

DOCUMENTS = [list(range(1, 1 + n)) for n in (3, 1, 7, 2, 5, 4, 6, 1)]
FLAT = [i for document in DOCUMENTS for i in (0, *document)]


def encoded(*pieces: tuple[list[int], int, bool]) -> EncodedPieces:
    ids, num_bytes, last = zip(*pieces, strict=True)
    flat = np.array([i for piece in ids for i in piece], "<u2")
    return EncodedPieces(flat, np.array(list(map(len, ids))), np.array(num_bytes), np.array(last))


def pieces_after(skip: int, together: int = 1) -> Iterator[EncodedPieces]:
    pieces = []
    for ids in DOCUMENTS[skip:]:
        pieces.append((ids[:1], 5, len(ids) == 1))
        if len(ids) > 1:
            pieces.append((ids[1:], 6, True))
    return (encoded(*pieces[start : start + together]) for start in range(0, len(pieces), together))


@pytest.fixture(params=[1, 10, 1000], ids=["shard per document", "some shards", "one shard"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Tokenizer) -> Path:
    write_shards(tmp_path / "s", tokenizer, pieces_after, shard_ids=request.param)
    return tmp_path / "s"


@pytest.mark.parametrize("shard_ids", [1, 8, 9, 1000])
@pytest.mark.parametrize("together", [2, 3, 5, 100])
def test_shards_do_not_depend_on_how_the_pieces_come(
    together: int, shard_ids: int, tmp_path: Path, tokenizer: Tokenizer
):
    write_shards(tmp_path / "one", tokenizer, pieces_after, shard_ids=shard_ids)
    write_shards(tmp_path / "many", tokenizer, lambda skip: pieces_after(skip, together), shard_ids=shard_ids)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "many").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes() for name in files)


def test_reads_back_what_was_written(folder: Path, tokenizer: Tokenizer):
    shards = TokenShards.open(folder)
    assert [shards.document(n).tolist() for n in range(len(shards))] == [[0, *ids] for ids in DOCUMENTS]
    assert shards.document(-1).tolist() == [0, 1]
    assert shards.lengths.tolist() == [len(ids) + 1 for ids in DOCUMENTS]
    assert shards.document_bytes.tolist() == [5 if len(ids) == 1 else 11 for ids in DOCUMENTS]
    assert shards.offsets.tolist() == np.cumsum([0, *(len(ids) + 1 for ids in DOCUMENTS)]).tolist()
    assert (shards.num_documents, shards.num_tokens) == (8, len(FLAT))
    assert shards.num_bytes == shards.document_bytes.sum()
    assert (shards.dtype, shards.vocab_size) == (np.dtype("<u2"), 600)
    assert shards.tokenizer_fingerprint == tokenizer.fingerprint
    assert shards.lengths.dtype == shards.offsets.dtype == shards.document_bytes.dtype == np.int64
    assert {path.suffix for path in folder.iterdir()} == {".ids", ".npy", ".json"}
    assert not list(folder.glob("*.done.json"))


@given(st.lists(st.tuples(st.integers(0, len(FLAT)), st.integers(0, 20)), max_size=12))
@settings(max_examples=100, deadline=None)
def test_gather_is_slicing(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, slices):
    for shard_ids in (1, 9, 1000):
        folder = tmp_path_factory.getbasetemp() / f"gather{shard_ids}"
        if not folder.exists():
            write_shards(folder, tokenizer, pieces_after, shard_ids=shard_ids)
        shards = TokenShards.open(folder, verify=False)
        slices = [(start, min(size, len(FLAT) - start)) for start, size in slices]
        expected = [i for start, size in slices for i in FLAT[start : start + size]]
        found = shards.gather([start for start, _ in slices], [size for _, size in slices])
        assert found.tolist() == expected
        assert found.dtype == np.uint16


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, len(FLAT) + 1), (len(FLAT), 1), (3, -1)])
def test_gather_outside_is_an_error(folder: Path, start: int, length: int):
    with pytest.raises(IndexError, match="leaves the 37 ids"):
        TokenShards.open(folder).gather([0, start], [1, length])
    with pytest.raises(IndexError):
        TokenShards.open(folder).document(8)


def test_fingerprint_is_of_the_contents(folder: Path, tmp_path: Path, tokenizer: Tokenizer):
    first = TokenShards.open(folder).fingerprint
    folder.rename(tmp_path / "moved")
    assert TokenShards.open(tmp_path / "moved").fingerprint == first
    other = [*DOCUMENTS[:-1], [2]]

    def others(skip: int) -> Iterator[EncodedPieces]:
        return (encoded((ids, 5, True)) for ids in other[skip:])

    write_shards(tmp_path / "other", tokenizer, others)
    assert TokenShards.open(tmp_path / "other").fingerprint != first


def flip(path: Path, position: int, value: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[position] = content[position] ^ 1 if value is None else value
    path.write_bytes(content)


@pytest.fixture
def two(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    write_shards(tmp_path / "two", tokenizer, pieces_after, shard_ids=20)
    assert len(list((tmp_path / "two").glob("*.ids"))) == 2
    return tmp_path / "two"


def swap(folder: Path, suffix: str) -> None:
    a, b = folder / f"00000{suffix}", folder / f"00001{suffix}"
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)


DAMAGE = {
    "flipped bit": (lambda f: flip(f / "00001.ids", 4), "00001.ids", False),
    "flipped bit in a table": (lambda f: flip(f / "00000.npy", -8), "00000.npy", False),
    "id beyond the vocabulary": (lambda f: flip(f / "00000.ids", 1, 255), "00000.ids", True),
    "truncated": (lambda f: (f / "00000.ids").write_bytes((f / "00000.ids").read_bytes()[:-2]), "00000.ids", True),
    "odd byte": (lambda f: (f / "00000.ids").write_bytes((f / "00000.ids").read_bytes() + b"x"), "00000.ids", True),
    "empty": (lambda f: (f / "00001.ids").write_bytes(b""), "00001.ids", True),
    "deleted": (lambda f: (f / "00001.ids").unlink(), "00001.ids is missing", True),
    "table deleted": (lambda f: (f / "00001.npy").unlink(), "00001.npy is missing", True),
    "table cut": (lambda f: (f / "00001.npy").write_bytes((f / "00001.npy").read_bytes()[:-9]), "00001.npy", True),
    "lengths do not add up": (lambda f: flip(f / "00000.npy", 128), "00000.npy", True),
    "swapped ids": (lambda f: swap(f, ".ids"), "0000[01].ids", True),
    "swapped tables": (lambda f: swap(f, ".npy"), "0000[01].npy", True),
    "index deleted": (lambda f: (f / "index.json").unlink(), "index.json is missing", True),
    "index cut": (lambda f: (f / "index.json").write_text('{"format"'), "index.json is damaged", True),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_that_names_the_file(damage: str, two: Path):
    harm, message, without_hashes = DAMAGE[damage]
    TokenShards.open(two)
    harm(two)
    with pytest.raises(DataError, match=message):
        TokenShards.open(two)
    if without_hashes:
        with pytest.raises(DataError, match=message):
            TokenShards.open(two, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99, not 2"),
        ({"format": "other"}, "no index of token shards"),
        ({"id_bytes": 3}, "out of range"),
        ({"vocab_size": "600"}, "out of range"),
        ({"tokenizer": "x"}, "out of range"),
        ({"shards": []}, "out of range"),
        ({"shards": [{"num_ids": 1}]}, "missing or wrong"),
        ({"shards": [{"num_ids": -1, "num_documents": 0, "ids_sha256": "", "table_sha256": ""}]}, "out of range"),
        ({"shards": None}, "missing or wrong"),
    ],
)
def test_hostile_index(change: dict, message: str, two: Path):
    index = json.loads((two / "index.json").read_text())
    (two / "index.json").write_text(json.dumps(sealed({**index, **change})))
    with pytest.raises(DataError, match=message):
        TokenShards.open(two)


def test_a_table_with_pickled_objects_is_not_run(two: Path):
    np.save(two / "00000.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"00000\.npy"):
        TokenShards.open(two, verify=False)


def test_an_interrupted_writer_goes_on_after_its_finished_shards(tmp_path: Path, tokenizer: Tokenizer):
    class Interrupted(Exception):
        pass

    asked = []

    def failing(skip: int) -> Iterator[EncodedPieces]:
        asked.append(skip)
        for number, piece in enumerate(pieces_after(skip)):
            if len(asked) == 1 and number == 9:
                raise Interrupted
            yield piece

    with pytest.raises(Interrupted):
        write_shards(tmp_path / "a", tokenizer, failing, shard_ids=8)
    assert not (tmp_path / "a" / "index.json").exists()
    assert not list((tmp_path / "a").glob("*tmp*"))
    write_shards(tmp_path / "a", tokenizer, failing, shard_ids=8)
    assert asked == [0, 5], "two shards, of three documents and two, were finished"
    write_shards(tmp_path / "b", tokenizer, pieces_after, shard_ids=8)
    assert TokenShards.open(tmp_path / "a").fingerprint == TokenShards.open(tmp_path / "b").fingerprint


def test_a_finished_shard_that_was_damaged_since_is_made_anew(tmp_path: Path, tokenizer: Tokenizer):
    write_shards(tmp_path / "good", tokenizer, pieces_after, shard_ids=8)
    index = json.loads((tmp_path / "good" / "index.json").read_text())
    for number, record in enumerate(index["shards"]):
        (tmp_path / "good" / f"{number:05d}.done.json").write_text(json.dumps(record))
    (tmp_path / "good" / "index.json").unlink()
    flip(tmp_path / "good" / "00001.ids", 0)
    asked = []
    write_shards(tmp_path / "good", tokenizer, lambda skip: asked.append(skip) or pieces_after(skip), shard_ids=8)
    assert asked == [3]
    assert [d for n in range(8) for d in TokenShards.open(tmp_path / "good").document(n)] == FLAT


def test_nothing_to_write_is_an_error(tmp_path: Path, tokenizer: Tokenizer):
    with pytest.raises(DataError, match="no document"):
        write_shards(tmp_path / "a", tokenizer, lambda skip: iter(()))
