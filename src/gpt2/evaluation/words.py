"""Words, sentences and names of a text, by rules. They err, but alike on a model's text and on real text."""

import re
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"”']?")
_STARTS_SENTENCE = re.compile(r"(?:^|[.!?:\n\"“”])[\s\"“”'‘]*$")

# Capitalised within a sentence without being a name.
_NO_NAMES = {
    "i", "i'm", "i'll", "i'd", "i've", "mr", "mrs", "miss", "ms", "dr", "mom", "mommy", "mum", "mummy", "mama",
    "mother", "dad", "daddy", "papa", "father", "grandma", "grandpa", "grandmother", "grandfather", "granny",
    "aunt", "uncle", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "christmas", "ok",
}  # fmt: skip


def words(text: str) -> list[str]:
    """Words in lower case, apostrophes inside kept."""
    return _WORD.findall(text.lower().replace("’", "'"))


def sentences(text: str) -> list[str]:
    """Sentences with their final mark, stripped."""
    return [match.group().strip() for match in _SENTENCE.finditer(text)]


@dataclass(frozen=True)
class Cast:
    """The names in a story."""

    first: str | None
    """The one that comes first."""
    stays: bool | None
    """Whether it comes again in the second half of the story; None without a name in the first half."""


def cast(text: str) -> Cast:
    """Find the names: words that are capitalised within a sentence at least once (family words are no names)."""
    found = list(_WORD.finditer(text))
    capitalised = [(number, match) for number, match in enumerate(found) if match.group()[0].isupper()]
    names = {
        match.group()
        for _, match in capitalised
        if match.group().lower().replace("’", "'") not in _NO_NAMES
        and not _STARTS_SENTENCE.search(text, max(0, match.start() - 8), match.start())
    }
    places = [(number, match.group().split("'")[0].split("’")[0]) for number, match in capitalised]
    mentions = [(number, word) for number, word in places if word in names]
    half = len(found) / 2
    if not mentions or mentions[0][0] >= half:
        return Cast(mentions[0][1] if mentions else None, None)
    first = mentions[0][1]
    return Cast(first, any(word == first and number >= half for number, word in mentions))
