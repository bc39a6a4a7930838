import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt2.data import BUNDLED, bundled_corpus, find_files, iter_documents, survey
from gpt2.errors import DataError


def joined(pieces) -> list[str]:
    documents, parts = [], []
    for text, last in pieces:
        parts.append(text)
        if last:
            documents.append("".join(parts))
            parts = []
    assert not parts
    return documents


def test_the_bundled_corpus_is_the_published_one():
    import lzma

    text = lzma.decompress(bundled_corpus().read_bytes())
    assert hashlib.sha256(text).hexdigest().startswith("efb842d46b6a67fc")
    assert find_files([]) == find_files([BUNDLED]) == [bundled_corpus()]
    assert len(list(iter_documents())) == 2040


def test_survey_counts_and_divides(write: Callable[..., Path], cache: Path, stories: list[str]):
    path = write([*stories[:99], ""])
    corpus = survey([path], valid_fraction=0.1, progress=False)
    train, valid = joined(corpus.training_pieces()), joined(corpus.validation_pieces())
    assert sorted(train + valid) == sorted(stories[:99])
    assert (len(train), len(valid)) == (corpus.num_documents, corpus.num_valid_documents) == (89, 10)
    assert corpus.num_bytes == sum(len(text.encode()) for text in train)
    assert corpus.num_valid_bytes == sum(len(text.encode()) for text in valid)
    assert train == [text for text in stories[:99] if text not in valid], "in the order of the file"
    assert "".join(corpus.training_texts()) == "".join(train)
    assert any("10 of 99 documents are held out" in note for note in corpus.notes)


def test_fraction_takes_the_first_documents(write: Callable[..., Path], cache: Path, stories: list[str]):
    corpus = survey([write(stories[:50]), write(stories[50:101], "b.txt")], fraction=0.1, progress=False)
    used = joined(corpus.training_pieces()) + joined(corpus.validation_pieces())
    assert sorted(used) == sorted(stories[:11]), "ceil(0.1 * 101) = 11"
    given = survey([write(stories[:50])], fraction=0.001, valid=[write(["other"], "v.txt")], progress=False)
    assert joined(given.training_pieces()) == stories[:1]


def test_copies_land_on_one_side_and_are_reported(write: Callable[..., Path], cache: Path, stories: list[str]):
    corpus = survey([write(stories[:20] * 3)], valid_fraction=0.2, progress=False)
    train, valid = set(joined(corpus.training_pieces())), set(joined(corpus.validation_pieces()))
    assert not train & valid
    assert train | valid == set(stories[:20])
    assert any("40 of 60 documents are copies" in note for note in corpus.notes)


def test_given_validation_text_and_its_overlap(write: Callable[..., Path], cache: Path, stories: list[str]):
    corpus = survey([write(stories[:10])], valid=[write(stories[8:14], "v.txt")], progress=False)
    assert joined(corpus.training_pieces()) == stories[:10]
    assert joined(corpus.validation_pieces()) == stories[8:14]
    assert any("2 of 6 validation documents also stand in the training text" in note for note in corpus.notes)


def test_a_single_document_is_cut(cache: Path, tmp_path: Path, stories: list[str]):
    book = "\n\n".join(stories[:50])
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    corpus = survey([tmp_path / "book.txt"], progress=False)
    (train,), (valid,) = joined(corpus.training_pieces()), joined(corpus.validation_pieces())
    assert f"{train}\n\n{valid}" == book
    assert 0.03 < len(valid) / len(book) < 0.07
    assert corpus.num_documents == corpus.num_valid_documents == 1
    assert abs(corpus.num_valid_bytes - len(valid.encode())) < 2000
    assert any("there is one document" in note for note in corpus.notes)
    (tmp_path / "copies.txt").write_text(f"{book}<|endoftext|>{book}", encoding="utf-8")
    copies = survey([tmp_path / "copies.txt"], progress=False)
    assert joined(copies.training_pieces()) == [train]


def test_options_reach_the_reader(cache: Path, tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'{"story": "caf\xe9"}\n{"story": "two words"}')
    corpus = survey([tmp_path], text_field="story", encoding_errors="replace", progress=False)
    assert set(joined(corpus.training_pieces()) + joined(corpus.validation_pieces())) == {"caf\ufffd", "two words"}
    (tmp_path / "b.txt").write_text("one two\n\nthree four")
    paragraphs = survey([tmp_path / "b.txt"], split="paragraph", progress=False)
    assert paragraphs.num_documents == paragraphs.num_valid_documents == 1


def test_training_texts_can_be_a_sample(write: Callable[..., Path], cache: Path, stories: list[str]):
    corpus = survey([write(stories[:200])], progress=False)
    sample = list(corpus.training_texts(corpus.num_bytes // 10))
    train = joined(corpus.training_pieces())
    assert sample == train[::11] or sample == train[::10]


def test_a_survey_is_remembered_until_the_file_changes(
    write: Callable[..., Path], cache: Path, stories: list[str], monkeypatch: pytest.MonkeyPatch
):
    path = write(stories[:10])
    old = path.stat().st_mtime - 100
    os.utime(path, (old, old))
    first = survey([path], progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("gpt2.data.corpus._survey_file", lambda *args: pytest.fail("read again"))
        patch.setattr("gpt2.data.cache.sha256", lambda *args: pytest.fail("hashed again"))
        assert survey([path], progress=False).key == first.key
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(stories[0][:3], "XYZ"), encoding="utf-8", newline="")
    changed = survey([path], progress=False)
    assert changed.key != first.key
    assert path.stat().st_size == len(text.encode())
    # The same bytes elsewhere are the same text.
    other = path.with_name("copy.txt")
    other.write_text(text, encoding="utf-8", newline="")
    assert survey([other], progress=False).key == first.key


def test_a_file_changed_within_the_clock_tick_is_seen(write: Callable[..., Path], cache: Path):
    path = write(["first text", "second text"])
    first = survey([path], progress=False)
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"first", b"FIRST"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert survey([path], progress=False).key != first.key


def test_a_damaged_memory_is_made_anew(write: Callable[..., Path], cache: Path, stories: list[str]):
    path = write(stories[:10])
    first = survey([path], progress=False)
    for memory in (cache / "surveys").iterdir():
        memory.write_bytes(memory.read_bytes()[:50])
    again = survey([path], progress=False)
    assert np.array_equal(first.documents.hashes, again.documents.hashes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, r"fraction must lie in \(0, 1\], got 0"),
        ({"fraction": 1.5}, "got 1.5"),
        ({"valid_fraction": 1.0}, r"valid_fraction must lie in \(0, 1\)"),
        ({"split": "lines"}, "split must be"),
    ],
)
def test_options_are_checked(options: dict, message: str, cache: Path):
    with pytest.raises(DataError, match=message):
        survey([], progress=False, **options)


def test_text_without_text(cache: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n\n<|endoftext|>\n")
    with pytest.raises(DataError, match=r"there is no text in .*a\.txt"):
        survey([tmp_path / "a.txt"], progress=False)
