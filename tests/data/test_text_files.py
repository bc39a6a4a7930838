import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2 import text_files
from gpt2.errors import DataError
from gpt2.text_files import TextFormat, find_text_files, iter_documents

REPLACE = TextFormat(encoding_errors="replace")


@pytest.fixture(params=[3, 1 << 20], ids=["tiny blocks", "whole file"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters, newlines and separators fall over the borders of tiny blocks."""
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("blocks")
def test_crlf_bom_and_separators(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne é\r\nline\r\n<|endoftext|>\r\n\r\nTwo 🙂 lone\rreturn\r\n".encode())
    assert list(iter_documents([path])) == ["One é\nline", "Two 🙂 lone\rreturn"]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_read_like_plain_ones(suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path):
    text, lines = tmp_path / f"a.txt{suffix}", tmp_path / f"b.jsonl{suffix}"
    text.write_bytes(pack(b"one\n<|endoftext|>\ntwo\n"))
    lines.write_bytes(pack(b'{"text": "three"}\n\n{"text": "four\\r\\nfive"}'))
    assert list(iter_documents(find_text_files([tmp_path]))) == ["one", "two", "three", "four\nfive"]


def test_reading_reports_every_byte_on_disk(tmp_path: Path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"some text\n" * 10_000))
    counts: list[int] = []
    list(iter_documents([path], on_bytes=counts.append))
    assert sum(counts) == path.stat().st_size


def test_folders_stand_for_their_text_files_sorted_and_each_file_once(tmp_path: Path):
    for name in ("b.txt", "a/z.jsonl", "a/B.TXT", ".hidden.txt", ".git/c.txt", "picture.png", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else "x")
    found = find_text_files([tmp_path, tmp_path / "b.txt", tmp_path / "a" / ".." / "b.txt"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/B.TXT", "a/z.jsonl", "b.txt"]


def test_missing_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "stories.txt").write_text("x")
    with pytest.raises(DataError, match=r"no file .*storys\.txt\. Did you mean 'stories\.txt'\?"):
        find_text_files([tmp_path / "storys.txt"])
    with pytest.raises(DataError, match="no folder"):
        find_text_files([tmp_path / "nowhere" / "a.txt"])


def test_empty_file_folder_without_text_and_no_regular_file(tmp_path: Path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        find_text_files([tmp_path / "empty.txt"])
    with pytest.raises(DataError, match=r"has no text in it; files named \.txt, "):
        find_text_files([tmp_path])
    with pytest.raises(DataError, match="not a regular file"):
        find_text_files([os.devnull])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"%PDF-1.7", "a PDF"),
        (gzip.compress(b"text", mtime=0), r"gzip data \(name it \.gz\)"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"some\x00text", "zero byte at offset 4"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_binary_files_are_named(content: bytes, message: str, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(iter_documents([tmp_path / name], REPLACE))
    assert name in str(caught.value)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("content", "line", "byte", "offset"),
    [
        (b"caf\xe9", 1, "e9", 3),
        (b"\xef\xbb\xbfone\r\ntwo\r\n caf\xe9 x", 3, "e9", 17),
        ("é🙂\n".encode() + b"a\xff", 2, "ff", 8),
        ("one\n🙂".encode()[:-1], 2, "f0", 4),
        (b"one\n\xf0\x9fa", 2, "f0", 4),
        (b"\xed\xa0\x80", 1, "ed", 0),
    ],
)
def test_bad_utf8_names_line_and_byte(content: bytes, line: int, byte: str, offset: int, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"a\.txt, line {line}: byte 0x{byte} at offset {offset} is not UTF-8"
    ) as caught:
        list(iter_documents([path]))
    assert "--encoding-errors replace" in str(caught.value)
    expected = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").replace("\r\n", "\n").strip("\n")
    assert list(iter_documents([path], REPLACE)) == [expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", r"line 2: not JSON .*one JSON object per line"),
        (b"[1, 2]", "line 2: a JSON object is needed, this is a list"),
        (
            b'{"story": "x", "id": 3}',
            "line 2: no field 'text'; its fields are 'story', 'id'; name one with --text-field",
        ),
        (b"{}", "its fields are none"),
        (b'{"text": null}', "line 2: the field 'text' must be text, it is a NoneType"),
        (b'{"text": "caf\xe9"}', r"line 2: byte 0xe9 at offset 34 is not UTF-8"),
        (b'{"text": "\\ud83d"}', r"line 2: \\ud83d is half of a surrogate pair"),
        (b"[" * 100_000, "line 2: not JSON"),
    ],
)
def test_bad_json_lines_are_named(line: bytes, message: str, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "12345678"}\n' + line + b"\n")
    assert path.read_bytes().index(line) == 21
    with pytest.raises(DataError, match=message) as caught:
        list(iter_documents([path]))
    assert str(path) in str(caught.value)


def test_json_text_field_and_replacement(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"story": "\\ud83d\\ude42 \\ud83d caf\xe9"}\n' + json.dumps({"story": "\n"}).encode()
    )
    found = list(iter_documents([path], TextFormat(text_field="story", encoding_errors="replace")))
    assert found == ["🙂 \ufffd caf\ufffd"]


def test_a_line_of_json_must_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_files, "_MAX_LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 200}))
    with pytest.raises(DataError, match="line 1: over 0 MiB long"):
        list(iter_documents([tmp_path / "a.jsonl"]))


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-4] + b"abcd", lambda b: b[:30] + b"x" + b[31:]]
)
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_archives(damage, suffix: str, pack, tmp_path: Path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(damage(pack(os.urandom(5000).hex().encode())))
    with pytest.raises(DataError, match="cut short or damaged") as caught:
        list(iter_documents([path]))
    assert str(path) in str(caught.value)


def test_paragraphs_only_where_there_is_no_separator(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n\nfour\n<|endoftext|>\nfive\n\nsix")
    files = find_text_files([tmp_path])
    assert list(iter_documents(files)) == ["one\n\ntwo", "three\n\nfour", "five\n\nsix"]
    assert list(iter_documents(files, TextFormat(split="paragraph"))) == ["one", "two", "three\n\nfour", "five\n\nsix"]


def test_format_values_are_checked():
    with pytest.raises(DataError, match="split must be auto or paragraph, got 'line'"):
        TextFormat(split="line")
    with pytest.raises(DataError, match="encoding_errors must be strict or replace"):
        TextFormat(encoding_errors="ignore")


def test_tinystories_is_read_as_its_authors_split_it(shared_data: Path):
    path = shared_data / "TinyStories-valid.txt"
    expected = [part.strip("\n") for part in path.read_text(encoding="utf-8").split("<|endoftext|>")]
    assert list(iter_documents([path])) == [document for document in expected if document]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot read"):
        list(iter_documents([path]))
