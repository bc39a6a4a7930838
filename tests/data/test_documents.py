import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2 import documents
from gpt2.documents import SEPARATOR, DocumentSplitter, cut_pieces
from gpt2.tokenizer import Tokenizer

FRAGMENTS = st.sampled_from(["a", "story", " ", "  ", "\n", "\n\n", "\t", SEPARATOR, "<|endof", "text|>", "é🙂"])


def split(chunks: list[str], **options: bool) -> list[str]:
    splitter, found, parts = DocumentSplitter(**options), [], []
    pieces = [piece for chunk in chunks for piece in splitter.push(chunk)] + list(splitter.flush())
    for text, last in pieces:
        parts.append(text)
        if last:
            found.append("".join(parts))
            parts = []
    assert not parts, "a document was never finished"
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n\n", []),
        ("one", ["one"]),
        ("\n one \n\n", [" one "]),
        ("one\n<|endoftext|>\ntwo\n<|endoftext|>\n", ["one", "two"]),
        ("one\n  <|endoftext|>\t\ntwo", ["one", "two"]),
        ("one<|endoftext|>two <|endoftext|> three", ["one", "two", "three"]),
        ("<|endoftext|><|endoftext|>\n\n<|endoftext|>one<|endoftext|>", ["one"]),
        ("a\n\nb\n<|endoftext|>\nc", ["a\n\nb", "c"]),
        ("<|endoftext> <endoftext>", ["<|endoftext> <endoftext>"]),
    ],
)
def test_documents_by_hand(text: str, expected: list[str]):
    assert split([text]) == expected
    assert split(list(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n\nc\n\n\n  \nd\n", ["a\nb", "c", "d"]),
        ("\n\na\n\n", ["a"]),
        ("a  \n \t \n  b", ["a", "  b"]),
        ("a\n\n   ", ["a"]),
    ],
)
def test_paragraphs_by_hand(text: str, expected: list[str]):
    assert split([text], paragraphs=True) == expected
    assert split(list(text), paragraphs=True) == expected


def test_empty_documents_can_be_kept():
    assert split(["one<|endoftext|>\n<|endoftext|><|endoftext|>\n"], keep_empty=True) == ["one", "", ""]


@given(st.lists(FRAGMENTS), st.booleans(), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_documents_do_not_depend_on_how_the_text_arrives(fragments: list[str], paragraphs: bool, size: int):
    text = "".join(fragments)
    while paragraphs and SEPARATOR in text:  # only for text without any; what is left may form one again
        text = text.replace(SEPARATOR, "")
    chunks = [text[n : n + size] for n in range(0, len(text), size)]
    with pytest.MonkeyPatch.context() as patch:
        whole = split([text], paragraphs=paragraphs)
        patch.setattr(documents, "PIECE_CHARACTERS", 7)
        patch.setattr(documents, "MAX_RUN", 10**9)
        assert split(chunks, paragraphs=paragraphs) == split([text], paragraphs=paragraphs) == whole


@given(st.text(st.sampled_from("ab1.'s \n\t\u00a0\u3000é中\x1c")))
@settings(max_examples=300, deadline=None)
def test_cuts_never_change_the_tokens(text: str):
    library = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    def words(part: str) -> list[str]:
        return [word for word, _ in library.pre_tokenize_str(part)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "MAX_RUN", 10**9)
        pieces = cut_pieces(text, 3)
    assert "".join(pieces) == text
    assert [word for piece in pieces for word in words(piece)] == words(text)


def test_cuts_are_made_and_pieces_stay_small(tokenizer: Tokenizer, stories: list[str]):
    text = "\n".join(stories[:100])
    pieces = cut_pieces(text, 1000)
    assert len(pieces) > 50
    assert max(map(len, pieces)) < 1100
    assert [i for piece in pieces for i in tokenizer.encode(piece)] == tokenizer.encode(text)


def test_a_run_without_blanks_is_cut_in_the_end():
    splitter = DocumentSplitter()
    longest, pieces, size = 0, [], 12 * documents.PIECE_CHARACTERS
    for _ in range(4):
        pieces += splitter.push("x" * size)
        longest = max(longest, len(splitter._text))
    pieces += splitter.flush()
    assert longest <= documents.MAX_RUN + size
    assert sum(len(text) for text, _ in pieces) == 4 * size
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [text for text, _ in pieces] == cut_pieces("x" * 4 * size)
    assert len(pieces) == 3
