"""Real text for tests: some of the bundled stories in a file."""

import itertools
from pathlib import Path

from gpt2.data import iter_documents


def write_stories(path: Path, count: int) -> Path:
    """The first `count` bundled stories, in TinyStories' format; gives the path."""
    path.write_text("\n<|endoftext|>\n".join(itertools.islice(iter_documents(), count)), encoding="utf-8")
    return path
