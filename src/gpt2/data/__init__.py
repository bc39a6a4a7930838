"""Text to token shards: reading, dividing, tokenising, and the bundled stories."""

from gpt2.data.corpus import BUNDLED, Corpus, bundled_corpus, find_files, iter_documents, survey
from gpt2.data.prepare import Prepared, prepare, prepare_corpus
from gpt2.data.shards import TokenShards

__all__ = [
    "BUNDLED",
    "Corpus",
    "Prepared",
    "TokenShards",
    "bundled_corpus",
    "find_files",
    "iter_documents",
    "prepare",
    "prepare_corpus",
    "survey",
]
