import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gpt2.errors import TokenizerError
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.validate import GPT2_PATTERN

SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def sequence(pattern: str) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [{**SPLIT, "pattern": {"Regex": pattern}}, byte_level]}


def swap_ids(d: dict[str, Any], token: str, number: Any) -> None:
    d["model"]["vocab"][token] = number


# What is done to a good tokenizer.json, and what the refusal must say.
DAMAGE: dict[str, tuple[Any, str]] = {
    "other model": (lambda d: d["model"].update(type="Unigram"), "model is 'Unigram'"),
    "no model": (lambda d: d.pop("model"), "model is missing"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "dropout is 0.1"),
    "prefix": (lambda d: d["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "vocabulary is a list": (lambda d: d["model"].update(vocab=["a"]), "vocab is missing or not"),
    "negative id": (lambda d: swap_ids(d, "!", -1), "'!' has the id -1"),
    "true as id": (lambda d: swap_ids(d, "!", True), "'!' has the id True"),
    "huge id": (lambda d: swap_ids(d, "!", 10**12), "'!' has the id 1000000000000"),
    "same id twice": (lambda d: swap_ids(d, "!", 2), "share an id"),
    "gap": (lambda d: swap_ids(d, "!", 5000), "no token has the id 1"),
    "lost byte": (
        lambda d: (d["model"]["vocab"].pop("!"), d["model"].update(merges=[])),
        "lacks 1 of the 256 bytes",
    ),
    "word tokens": (lambda d: swap_ids(d, "white space", 1000), "not spelled in byte-level"),
    "merge of unknown": (lambda d: d["model"]["merges"].append(["zq", "qz"]), "names 'zq'"),
    "merge to unknown": (lambda d: d["model"]["merges"].append(["!", "Q"]), "names '!Q'"),
    "merge of three": (lambda d: d["model"]["merges"].append("a b c"), "not a pair"),
    "merges are numbers": (lambda d: d["model"].update(merges=[[1, 2]]), "not a pair"),
    "special twice": (
        lambda d: d["added_tokens"].append({"id": 5, "content": "<|endoftext|>"}),
        "stands twice",
    ),
    "special with two ids": (lambda d: d["added_tokens"][0].update(id=7), "two ids"),
    "empty special": (lambda d: d["added_tokens"].append({"id": 1000, "content": ""}), "content ''"),
    "specials are an object": (lambda d: d.update(added_tokens={"a": 1}), "not a list"),
    "lower-casing": (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizer is 'Lowercase'"),
    "replacing": (
        lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [{"type": "Replace"}]}),
        "normalizer is 'Replace'",
    ),
    "no pre-tokenizer": (lambda d: d.update(pre_tokenizer=None), "pre_tokenizer is None"),
    "whitespace": (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "'Whitespace'"),
    "prefix space": (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "puts a space"),
    "evil pattern": (lambda d: d.update(pre_tokenizer=sequence("(a+)+$")), "not by GPT-2's pattern"),
    "twice split": (
        lambda d: (
            d.update(pre_tokenizer=sequence(GPT2_PATTERN)) or d["pre_tokenizer"]["pretokenizers"][1].pop("use_regex")
        ),
        "exactly once",
    ),
    "removing": (
        lambda d: (
            d.update(pre_tokenizer=sequence(GPT2_PATTERN))
            or d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed")
        ),
        "throws text away",
    ),
    "decoder": (lambda d: d.update(decoder={"type": "WordPiece"}), "decoder is not ByteLevel"),
    "no end of text": (
        lambda d: (d.update(added_tokens=[]), d["model"]["vocab"].update({"<|endoftext|>": 0})),
        "not spelled in byte-level|no <\\|endoftext",
    ),
}


@pytest.fixture
def good(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_json())


@pytest.mark.parametrize("damage", DAMAGE)
def test_refuses_by_name(damage: str, good: dict[str, Any], tmp_path: Path):
    harm, message = DAMAGE[damage]
    harm(good)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(good))
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"model": ', "not JSON"),
        (b"\x00\xff\xfe", "not UTF-8"),
        (b"[1, 2]", "JSON list, not an object"),
        (b"[" * 200_000, "not JSON"),
        (b'{"model": ' * 100_000 + b"1" + b"}" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
    ids=["empty", "cut", "binary", "list", "deep lists", "deep objects", "endless number"],
)
def test_refuses_what_is_no_json(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(path) in str(caught.value)


def test_refuses_a_huge_file_unread(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    with pytest.raises(TokenizerError, match="over 32 MiB"):
        Tokenizer.load(path)


def test_a_panic_of_the_library_is_our_error(good: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    # Past the checks (switched off here), such a merge makes the library itself panic or raise.
    good["model"]["merges"].append(["!", "Q"])
    monkeypatch.setattr("gpt2.tokenizer.validate.check", lambda content, name: None)
    with pytest.raises(TokenizerError, match=r"evil\.json cannot be used"):
        Tokenizer(json.dumps(good), name="evil.json")


def test_missing_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(TokenizerError, match="there is no tokenizer at"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="there is no tokenizer at"):
        Tokenizer.load(tmp_path / "nowhere" / "tokenizer.json")


def test_accepts_the_pattern_written_out(good: dict[str, Any], tokenizer: Tokenizer):
    good["pre_tokenizer"] = sequence(GPT2_PATTERN)
    assert Tokenizer(json.dumps(good)).encode("It's  12 o'clock!\n") == tokenizer.encode("It's  12 o'clock!\n")


def test_ignores_truncation_and_padding_someone_left_in_the_file(tokenizer: Tokenizer):
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    library.enable_truncation(4)
    library.enable_padding(length=50)
    assert Tokenizer(library.to_str()).encode("one two three four five six") == tokenizer.encode(
        "one two three four five six"
    )


def test_another_end_token_is_found_through_the_configuration(good: dict[str, Any], tmp_path: Path):
    good["added_tokens"][0]["content"] = "</s>"
    good["model"]["vocab"]["</s>"] = good["model"]["vocab"].pop("<|endoftext|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(good))
    with pytest.raises(TokenizerError, match=r"no <\|endoftext\|> token"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    assert Tokenizer.load(tmp_path).eos_token_id == 0


def test_a_million_letters_do_not_take_for_ever(tokenizer: Tokenizer):
    start = time.monotonic()
    assert len(tokenizer.encode("a" * 300_000)) > 0
    assert time.monotonic() - start < 30
