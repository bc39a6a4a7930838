import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.cli import main
from gpt2.data import prepare
from gpt2.data.check import examine
from gpt2.data.damage import encoding_problems
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer


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


def test_damage_is_found_by_kind_and_place(write: Callable[..., Path]):
    documents = [
        "A clean document with an é, a “quote”, an emoji 🙂 and naïve Ärger.",
        "It was â€œmojibakeâ€\x9d, and cafÃ© too.",
        "lost \ufffd here and \ufffd there",
        "fish &amp; chips &#39;ok&#39;, but R&D; is fine",
        "a bell \x07 and a bell \x07",
        "again â€™ and \ufffd",
    ]
    report = examine([write(documents)])
    found = {damage.kind.split(" ")[0]: (damage.documents, damage.first_document) for damage in report.damage}
    assert found == {"replacement": (2, 3), "mojibake": (2, 2), "control": (1, 5), "entities": (1, 4)}
    assert any("mojibake" in line and "document 2" in line for line in report.lines())


def test_lengths_that_stand_out_are_counted(write: Callable[..., Path]):
    report = examine([write(["tiny", "a document of the usual length, more or less", "word " * 30_000])])
    assert (report.short_documents, report.long_documents) == (1, 1)


def test_tokens_are_counted_by_hand(write: Callable[..., Path], tokenizer: Tokenizer, stories: list[str]):
    documents = [*stories[:5], "été 🙂"]
    report = examine([write(documents)], tokenizer=tokenizer, context_length=50).tokens
    assert report is not None
    lengths = [len(tokenizer.encode(document)) for document in documents]
    assert (report.tokens, report.longest) == (sum(lengths), max(lengths))
    assert report.cut_documents == sum(length + 1 > 50 for length in lengths) > 0
    seen = sum(min(length + 1, 50) for length in lengths)
    assert report.out_of_sight == pytest.approx(1 - seen / (sum(lengths) + len(lengths)))
    assert (report.lost, report.out_of_range) == (0, 0)
    used = {i for document in documents for i in tokenizer.encode(document)}
    assert report.unused_ids == tokenizer.vocab_size - len(used)


def test_what_a_tokenizer_does_not_give_back_is_counted(write: Callable[..., Path], tokenizer: Tokenizer):
    definition = json.loads(tokenizer.to_json())
    definition["normalizer"] = {"type": "NFC"}
    decomposed = "e\u0301te\u0301 " * 5
    report = examine(
        [write([decomposed.strip(), "plain text of the other document"])], tokenizer=Tokenizer(json.dumps(definition))
    )
    assert report.tokens is not None
    assert 0.4 < report.tokens.lost < 0.6


def test_the_command_reads_text_with_a_tokenizer_and_token_shards(
    write: Callable[..., Path],
    cache: Path,
    tmp_path: Path,
    tokenizer: Tokenizer,
    stories: list[str],
    capsys: pytest.CaptureFixture[str],
):
    tokenizer.save(tmp_path / "tokenizer.json")
    path = write(stories[:40])
    assert main(["data", "check", str(path), "--tokenizer", str(tmp_path / "tokenizer.json")]) == 0
    assert "lost by tokenising   0.000%" in capsys.readouterr().out
    prepared = prepare([path], tokenizer, progress=False)
    assert main(["data", "check", str(prepared.train.folder.parent)]) == 0
    said = capsys.readouterr().out
    assert "every file has the SHA-256 of the index" in said
    assert "38 documents" in said
    victim = prepared.train.folder / "00000.ids"
    content = bytearray(victim.read_bytes())
    content[77] ^= 4
    victim.write_bytes(content)
    assert main(["data", "check", str(prepared.train.folder)]) == 2
    assert "00000.ids is damaged" in capsys.readouterr().err
