from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.data.check import encoding_problems, examine
from gpt2.errors import DataError


def test_counts_by_hand(write: Callable[..., Path], tmp_path: Path):
    text = write(["aaaa", "", "bb", "aaaa", "\n", "été"])
    valid = write(["bb", "new", "bb"], "valid.txt")
    report = examine([text], valid=[valid])
    assert (report.documents, report.bytes) == (4, 4 + 2 + 4 + 5)
    assert report.characters == {"min": 2.0, "median": 3.5, "max": 4.0}
    assert (report.empty_documents, report.duplicate_documents, report.valid_overlap) == (2, 1, 2)
    assert report.encoding_problems == []
    assert any("validation loss" in hint for hint in report.hints)


def test_empty_json_documents_are_counted(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": ""}\n\n{"text": "\\n"}\n')
    report = examine([tmp_path])
    assert (report.documents, report.empty_documents) == (1, 2)


def test_the_bundled_corpus_is_clean():
    report = examine()
    assert (report.documents, report.duplicate_documents, report.hints) == (2040, 0, [])
    assert any("2,040" in line for line in report.lines())


def test_encoding_problems_are_found_with_line_and_byte(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("é ok\n".encode() + b"caf\xe9\n\n\xff\xfe and\n<|endoftext|>\nend \xf0\x9f")
    places = ["line 2: byte 0xe9 at offset 9", "line 4: byte 0xff at offset 12", "line 4: byte 0xfe at offset 13"]
    found = encoding_problems(path)
    assert found == [f"{path}, {place}" for place in [*places, "line 6: byte 0xf0 at offset 37"]]
    assert path.read_bytes()[37] == 0xF0
    assert encoding_problems(path, limit=2) == found[:2]
    report = examine([path])
    assert report.documents == 2
    assert report.encoding_problems == found


def test_problems_across_block_borders(tmp_path: Path):
    path = tmp_path / "a.txt"
    content = b"x" * ((1 << 20) - 2) + "🙂".encode() + b"\xe9\n" + b"y" * (1 << 20) + b"\xc3"
    path.write_bytes(content)
    first, last = content.index(b"\xe9"), len(content) - 1
    assert encoding_problems(path) == [
        f"{path}, line 1: byte 0xe9 at offset {first:,}",
        f"{path}, line 2: byte 0xc3 at offset {last:,}",
    ]


def test_a_large_file_without_separators_gets_a_hint(tmp_path: Path):
    path = tmp_path / "book.txt"
    path.write_text("A paragraph.\n\n" * 10_000)
    assert any("no <|endoftext|> in" in hint and "--split paragraph" in hint for hint in examine([path]).hints)
    assert examine([path], split="paragraph").hints == []
    assert examine([path], split="paragraph").documents == 10_000


def test_what_is_no_text_is_an_error(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"%PDF-1.4")
    with pytest.raises(DataError, match="a PDF"):
        examine([tmp_path / "a.txt"])
    (tmp_path / "b.txt").write_text("\n\n")
    with pytest.raises(DataError, match="no text"):
        examine([tmp_path / "b.txt"])
