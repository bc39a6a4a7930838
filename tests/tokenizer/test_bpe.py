import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.errors import DataError, TokenizerError, UserError
from gpt2.tokenizer import END_OF_TEXT, Tokenizer

TRICKY = [
    "",
    " ",
    "\n\n  \n",
    "a\r\nb\rc",
    "It's they'll 'S 're''ve I'd",
    "naïve café — “quoted” … 12½ ³",
    "👩‍👩‍👧 zwj, cafe\u0301 combining, \u202eright-to-left",
    "中文字符和ひらがな 한국어",
    "\x00\x1c\x85\u3000\u2028 odd blanks \ufeff",
    "a<|endoftext|>b<|endoftext|>",
    "x" * 5000 + " " * 5000,
]


@pytest.fixture(scope="module")
def reference(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory):
    """The same folder as transformers reads it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer.save_pretrained(folder, model_max_length=10**6)
    return AutoTokenizer.from_pretrained(folder)


def naive_encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """OpenAI's `encoder.py`, the slow way, for ASCII: merge the lowest-ranked pair until none is left."""
    model = json.loads(tokenizer.to_json())["model"]
    ranks = {tuple(m.split(" ") if isinstance(m, str) else m): r for r, m in enumerate(model["merges"])}
    spelling = dict(zip(range(256), tokenizers.pre_tokenizers.ByteLevel.alphabet(), strict=False))
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    spelling = {b: chr(b) for b in visible} | {b: chr(256 + n) for n, b in enumerate(hidden)}
    ids = []
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
    for word in re.findall(pattern, text, re.ASCII):
        parts = [spelling[b] for b in word.encode()]
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda pair: ranks.get(pair, 10**9))
            if best not in ranks:
                break
            merged, n = [], 0
            while n < len(parts):
                pair = tuple(parts[n : n + 2])
                merged.append("".join(pair) if pair == best else parts[n])
                n += 2 if pair == best else 1
            parts = merged
        ids += [model["vocab"][part] for part in parts]
    return ids


def test_learns_the_merges_one_computes_by_hand():
    # Words: "ab" once, " ab" twice, " abc" once. Pair a+b stands 4 times, then " "+ab 3 times; no other twice.
    tokenizer = Tokenizer.train(["ab ab ab abc"], 259)
    assert len(tokenizer) == tokenizer.vocab_size == 259
    assert (tokenizer.token_bytes(257), tokenizer.token_bytes(258)) == (b"ab", b" ab")
    assert tokenizer.encode("ab abc") == [257, 258, tokenizer.encode("c")[0]]
    with pytest.raises(TokenizerError, match=r"260 is larger than the text supports; the largest possible is 259"):
        Tokenizer.train(["ab ab ab abc"], 260)
    assert len(Tokenizer.train(["ab ab ab abc"], 5000, allow_fewer=True)) == 259


def test_every_byte_is_in_the_vocabulary_and_end_of_text_is_id_0(tokenizer: Tokenizer):
    assert tokenizer.eos_token_id == 0
    assert tokenizer.token_bytes(0) == END_OF_TEXT.encode()
    assert {tokenizer.token_bytes(i) for i in range(1, 257)} == {bytes([b]) for b in range(256)}


def test_encodes_as_the_naive_algorithm(tokenizer: Tokenizer, stories: list[str]):
    for text in [s for s in stories[500:540] if s.isascii()] + [t for t in TRICKY if t.isascii() and len(t) < 500]:
        assert tokenizer.encode(text) == naive_encode(text, tokenizer)


@pytest.mark.parametrize("text", TRICKY)
def test_equals_transformers(text: str, tokenizer: Tokenizer, reference):
    without_special = text.replace(END_OF_TEXT, "")
    assert tokenizer.encode(without_special) == reference.encode(without_special)
    assert tokenizer.encode(text, allow_special=True) == reference.encode(text)
    ids = tokenizer.encode(text, allow_special=True)
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids, keep_special=True) == reference.decode(ids) == text


def test_pretrained_folder_names_its_special_tokens(reference, tokenizer: Tokenizer):
    assert reference.eos_token == reference.bos_token == END_OF_TEXT
    assert reference.eos_token_id == tokenizer.eos_token_id
    assert reference.model_max_length == 10**6
    assert len(reference) == len(tokenizer)


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_round_trip_is_exact(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 < i < tokenizer.vocab_size for i in ids)


@given(st.lists(st.integers(0, 1000)))
@settings(max_examples=200, deadline=None)
def test_decodes_any_ids_as_the_library(tokenizer: Tokenizer, ids: list[int]):
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    known = [i for i in ids if i < 1000]
    assert tokenizer.decode(known, keep_special=True) == library.decode(known, skip_special_tokens=False)
    assert tokenizer.decode(known) == library.decode(known, skip_special_tokens=True)


def test_special_strings_are_plain_text_unless_allowed(tokenizer: Tokenizer):
    assert 0 not in tokenizer.encode(END_OF_TEXT)
    assert tokenizer.decode(tokenizer.encode(END_OF_TEXT)) == END_OF_TEXT
    assert tokenizer.encode(f"a{END_OF_TEXT}", allow_special=True) == [*tokenizer.encode("a"), 0]
    assert tokenizer.decode([0, 0]) == ""
    assert tokenizer.decode([0], keep_special=True) == END_OF_TEXT


def test_ids_beyond_the_vocabulary_show_and_negative_ones_are_errors(tokenizer: Tokenizer):
    assert tokenizer.decode([*tokenizer.encode("a"), 1000, *tokenizer.encode("b")]) == "a\ufffdb"
    with pytest.raises(TokenizerError, match="negative, got -1"):
        tokenizer.decode([-1])


@pytest.mark.parametrize("method", ["encode", "encode_batch", "train"])
def test_lone_surrogate_is_an_error_that_says_where(method: str, tokenizer: Tokenizer):
    with pytest.raises(TokenizerError, match=r"U\+D83D, at position 3"):
        {
            "encode": lambda text: tokenizer.encode(text),
            "encode_batch": lambda text: tokenizer.encode_batch(["fine", text]),
            "train": lambda text: Tokenizer.train(["fine", text], 300),
        }[method]("abc\ud83d")


def test_wrong_types_are_type_errors(tokenizer: Tokenizer):
    with pytest.raises(TypeError, match="got int"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable of strings"):
        Tokenizer.train("one string", 300)


def test_a_long_text_has_the_ids_it_has_uncut(tokenizer: Tokenizer, stories: list[str]):
    text = "\n\n".join(stories)[:300_000]
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    library.encode_special_tokens = True
    assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_training_ignores_order_separators_and_processes(stories: list[str], tmp_path: Path):
    texts = stories[:200]
    first = Tokenizer.train(texts, 600)
    assert Tokenizer.train(reversed(texts), 600).fingerprint == first.fingerprint
    assert Tokenizer.train([END_OF_TEXT.join(texts)], 600).fingerprint == first.fingerprint
    (tmp_path / "t.txt").write_text(END_OF_TEXT.join(texts), encoding="utf-8")
    code = (
        "import sys; from gpt2.tokenizer import Tokenizer; "
        "print(Tokenizer.train_from_files([sys.argv[1]], 600).fingerprint)"
    )
    for threads in ("1", "4"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, str(tmp_path / "t.txt")]
        other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == first.fingerprint


def test_training_survives_a_word_of_a_million_letters():
    tokenizer = Tokenizer.train(["a" * 1_000_000 + " " * 100_000, "the cat " * 10], 1000, allow_fewer=True)
    assert tokenizer.decode(tokenizer.encode("a" * 100_000)) == "a" * 100_000


def test_errors_of_the_text_source_come_through():
    def failing():
        yield "some text"
        raise DataError("line 7 is bad")

    with pytest.raises(DataError, match="line 7 is bad"):
        Tokenizer.train(failing(), 300)


@pytest.mark.parametrize("size", [0, 256, 2_000_000])
def test_vocab_size_out_of_range(size: int):
    with pytest.raises(TokenizerError, match="between 257"):
        Tokenizer.train(["text"], size)


def test_save_load_pickle_keep_everything(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "my.json")
    tokenizer.save(tmp_path)
    copies = [
        Tokenizer.load(tmp_path / "my.json"),
        Tokenizer.load(tmp_path),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    for copy in copies:
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode(f"Once {END_OF_TEXT}") == tokenizer.encode(f"Once {END_OF_TEXT}")
    assert Tokenizer.from_pretrained(tmp_path).to_json() == tokenizer.to_json()


def test_fingerprint_tells_tokenizers_apart(tokenizer: Tokenizer, stories: list[str]):
    assert Tokenizer.train(stories[:500], 999).fingerprint != tokenizer.fingerprint
    definition = json.loads(tokenizer.to_json())
    definition["model"]["merges"][0], definition["model"]["merges"][1] = definition["model"]["merges"][1::-1]
    assert Tokenizer(json.dumps(definition)).fingerprint != tokenizer.fingerprint


def test_reads_the_files_openai_published_in(tokenizer: Tokenizer, tmp_path: Path):
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    library.model.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    copy = Tokenizer.load(tmp_path)
    assert copy.fingerprint == tokenizer.fingerprint
    # OpenAI's vocab.bpe ends its lines as it likes and the table may come without the special token.
    table = json.loads((tmp_path / "vocab.json").read_text())
    shifted = {token: number - 1 for token, number in table.items() if number > 0}
    (tmp_path / "vocab.json").write_text(json.dumps(shifted))
    last = Tokenizer.load(tmp_path)
    assert last.eos_token_id == 999
    assert last.encode("Once upon") == [i - 1 for i in tokenizer.encode("Once upon")]


def test_a_failed_save_leaves_the_old_file(tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        tokenizer.save(tmp_path / "file" / "tokenizer.json")


def test_importing_the_tokenizer_imports_no_torch():
    code = "import sys, gpt2.tokenizer; assert not {'torch', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)
