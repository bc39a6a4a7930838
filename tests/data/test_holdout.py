import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data.holdout import MAX_HELD_OUT_DOCUMENTS, choose_held_out, cut_document
from gpt2.documents import cut_pieces
from gpt2.errors import DataError

HASHES = st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda values: len(set(values)) > 1)


@given(HASHES, st.floats(0.001, 0.999), st.randoms())
@settings(max_examples=200, deadline=None)
def test_choice_depends_on_content_alone(values: list[int], share: float, random):
    hashes = np.array(values, np.uint64)
    chosen = choose_held_out(hashes, share)
    assert 0 < chosen.sum() < len(values)
    held_out = {value for value, out in zip(values, chosen.tolist(), strict=True) if out}
    assert held_out.isdisjoint(value for value, out in zip(values, chosen.tolist(), strict=True) if not out)
    shuffled = random.sample(values, len(values))
    again = choose_held_out(np.array(shuffled, np.uint64), share)
    assert {value for value, out in zip(shuffled, again.tolist(), strict=True) if out} == held_out


def test_takes_the_share_asked_for_but_no_more_than_enough():
    hashes = np.random.default_rng(0).integers(0, 2**63, 100_000).astype(np.uint64)
    assert choose_held_out(hashes[:1000], 0.05).sum() == 50
    assert choose_held_out(hashes[:7], 0.05).sum() == 1
    assert choose_held_out(hashes, 0.5).sum() == MAX_HELD_OUT_DOCUMENTS
    assert choose_held_out(hashes[:2], 0.99).tolist() == (hashes[:2] == hashes[:2].min()).tolist()


def halves(text: str, share: float, size: int = 1 << 20) -> tuple[str, str]:
    pieces = cut_pieces(text, size)
    stream = [(piece, number == len(pieces) - 1) for number, piece in enumerate(pieces)]
    found = list(cut_document(stream, len(text.encode()), share))
    sides = [half.held_out for half in found]
    assert sides == sorted(sides), "the end is held out"
    assert [half.last for half in found] == [n == len(found) - 1 or sides[n] != sides[n + 1] for n in range(len(found))]
    return tuple("".join(half.text for half in found if half.held_out is side) for side in (False, True))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "share", "expected"),
    [
        ("one two", 0.05, ("one", "two")),
        ("a b c d e f g h i j", 0.3, ("a b c d e f g", "h i j")),
        ("first line\nsecond line\nthird line", 0.34, ("first line\nsecond line", "third line")),
        ("par one\n\npar two\nline\n\npar three", 0.1, ("par one\n\npar two\nline", "par three")),
        ("x", 0.5, None),
        ("word", 0.5, None),
    ],
)
def test_cuts_at_the_best_boundary(text: str, share: float, expected: tuple[str, str] | None):
    if expected is None:
        with pytest.raises(DataError, match=r"too short .* --valid"):
            halves(text, share)
    else:
        assert halves(text, share) == expected


def test_a_book_in_pieces_is_cut_where_it_is_cut_whole():
    book = "\n\n".join(f"Paragraph {n} of the book, é." + " word" * (n % 50) for n in range(2000))
    whole = halves(book, 0.05)
    assert 0.04 < len(whole[1]) / len(book) < 0.06
    assert "\n\n".join(whole) == book
    train, valid = halves(book, 0.05, size=3000)
    assert f"{train} {valid}".split() == book.split()
    assert 0.04 < len(valid) / len(book) < 0.06
