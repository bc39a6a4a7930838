"""`Tokenizer`: GPT-2's byte-level BPE (Radford et al., 2019, section 2.2; Sennrich et al., 2016).

The merges are learned and applied by the `tokenizers` library; its file format, `tokenizer.json`,
is ours. The 256 bytes are always in the vocabulary, so no text is ever unknown.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import tokenizers

from gpt2.documents import SEPARATOR, cut_pieces
from gpt2.errors import TokenizerError
from gpt2.files import atomic_write, write_json
from gpt2.manifest import forget_manifest, require_unchanged
from gpt2.text_files import DEFAULT_FORMAT, TextFormat, find_text_files, iter_pieces
from gpt2.tokenizer import validate
from gpt2.tokenizer.bulk import BulkEncoder
from gpt2.tokenizer.byte_level import token_to_bytes
from gpt2.tokenizer.learn import gpt2_definition, guarded, learn_merges, require_encodable
from gpt2.tokenizer.stream import StreamDecoder

END_OF_TEXT = SEPARATOR
"""The special token that begins and ends every document."""

_REPLACEMENT = "\ufffd".encode()


class Tokenizer:
    """Text to ids and back. Pickles; equal definitions give equal ids and an equal `fingerprint`.

    Make one with `Tokenizer.train`, `train_from_files`, `load` or `from_vocab_and_merges`.

    Args:
        definition: the text of a `tokenizer.json`, or that parsed.
        name: where it came from, for error messages.
        eos_token: the token that ends a document, if the definition has no `<|endoftext|>`.

    Raises:
        TokenizerError: the definition is not GPT-2's byte-level BPE.
    """

    def __init__(
        self, definition: str | Mapping[str, Any], *, name: str = "tokenizer", eos_token: str | None = None
    ) -> None:
        content = json.loads(definition) if isinstance(definition, str) else dict(definition)
        validate.check(content, name)
        # Settings of a training script that once used the file; they would cut our text short.
        content.update(truncation=None, padding=None)
        self._definition = json.dumps(content, ensure_ascii=False)
        self._eos_token = eos_token
        with guarded(name):
            self._plain = tokenizers.Tokenizer.from_str(self._definition)
        self._plain.encode_special_tokens = True  # that is: special strings are text like any other
        vocab, added = content["model"]["vocab"], content.get("added_tokens") or []
        self._ids = {token["content"]: token["id"] for token in added}
        table = {number: token_to_bytes(token) for token, number in vocab.items() if token not in self._ids}
        table.update({token["id"]: token["content"].encode() for token in added})
        self._bytes = [table[number] for number in range(len(table))]
        self._special_ids = frozenset(token["id"] for token in added if token.get("special"))
        self.splits_by_pattern = all(token.get("special") for token in added)
        """Whether words are found by GPT-2's pattern alone: no added token cuts plain text."""
        self.normalizes = content.get("normalizer") is not None
        """Whether characters are composed or decomposed first (GPT-2's are not)."""
        if self._eos_name not in self._ids:
            raise TokenizerError(f"{name} has no {self._eos_name} token, which GPT-2 puts between documents")

    def __len__(self) -> int:
        return len(self._bytes)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self._definition, self._eos_token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, `<|endoftext|>` included. A model's vocabulary may be padded beyond it."""
        return len(self._bytes)

    @property
    def eos_token_id(self) -> int:
        """Id of `<|endoftext|>`: 0 in what we train (whatever the size), 50256 in OpenAI's."""
        return self._ids[self._eos_name]

    @property
    def _eos_name(self) -> str:
        return self._eos_token if self._eos_token and END_OF_TEXT not in self._ids else END_OF_TEXT

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the ids, independent of how the file is laid out."""
        content = json.loads(self._definition)
        model = content["model"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        added = sorted((t["id"], t["content"], bool(t.get("special"))) for t in content.get("added_tokens") or [])
        normalizer = content.get("normalizer")
        decisive = [
            sorted(model["vocab"].items()),
            merges,
            added,
            normalizer,
            bool(model.get("ignore_merges")),
        ]
        return hashlib.sha256(json.dumps([*decisive, self.eos_token_id]).encode()).hexdigest()

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`. Nothing is added before or after.

        Args:
            text: any string; runs of over a million characters without a blank are cut.
            allow_special: read `<|endoftext|>` as the special token. By default it is plain text,
                so that no text from outside can forge the end of a document.

        Raises:
            TokenizerError: a lone surrogate, which no UTF-8 can hold; the message says where.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        rust, pieces = (self._special, [text]) if allow_special else (self._plain, cut_pieces(text))
        try:
            with guarded("the tokenizer"):
                return [i for e in rust.encode_batch_fast(pieces, add_special_tokens=False) for i in e.ids]
        except TypeError:
            require_encodable(text)
            raise

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`[encode(text) for text in texts]`, several times faster.

        Raises:
            TokenizerError: as `encode`.
        """
        bulk = self.bulk_encoder
        return [bulk.to_list(bulk.encode(text)) for text in texts]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 give U+FFFD, and so do ids of a padded vocabulary.

        Args:
            ids: integers from 0.
            keep_special: show special tokens; by default they are left out.

        Raises:
            TokenizerError: a negative id.
        """
        known, hidden = self._bytes, () if keep_special else self._special_ids
        parts = (known[i] if 0 <= i < len(known) else self.token_bytes(i) for i in ids if i not in hidden)
        return b"".join(parts).decode("utf-8", "replace")

    def stream_decoder(self, *, keep_special: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one; see `StreamDecoder`."""
        return StreamDecoder(self, keep_special=keep_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one token, perhaps a part of a character; U+FFFD's for an id past the end.

        Raises:
            TokenizerError: a negative id.
        """
        if token_id < 0:
            raise TokenizerError(f"a token id cannot be negative, got {token_id}")
        return self._bytes[token_id] if token_id < len(self._bytes) else _REPLACEMENT

    def is_special(self, token_id: int) -> bool:
        """Whether this is `<|endoftext|>` or another special token."""
        return token_id in self._special_ids

    def to_json(self) -> str:
        """The text of `tokenizer.json`."""
        return self._plain.to_str(pretty=True)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` (atomically) to this path, or into this existing folder.

        Raises:
            UserError: it cannot be written.
        """
        path = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        forget_manifest(path.parent)
        with atomic_write(path) as file:
            file.write(self.to_json())

    def save_pretrained(self, folder: str | Path, *, model_max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` loads.

        Args:
            folder: created if missing.
            model_max_length: the model's context length in tokens, if it is known.

        Raises:
            UserError: a file cannot be written.
        """
        self.save(Path(folder) / "tokenizer.json")
        config: dict[str, Any] = {
            "tokenizer_class": "GPT2TokenizerFast",
            "add_prefix_space": False,
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), self._eos_name),
            "clean_up_tokenization_spaces": False,  # it would change " ." into "." when decoding
        }
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        write_json(Path(folder) / "tokenizer_config.json", config)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json`, or a folder that has one (or `vocab.json` and `merges.txt`).

        Raises:
            TokenizerError: missing, damaged, or not GPT-2's byte-level BPE.
            CheckpointError: not what the run wrote (`gpt2.manifest`).
        """
        path = Path(path)
        folder, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
        if not file.exists():
            vocab, merges = path / "vocab.json", path / "merges.txt"
            if vocab.exists() and merges.exists():
                return cls.from_vocab_and_merges(vocab, merges)
            raise TokenizerError(
                f"there is no tokenizer at {file}; train one, or copy the model's tokenizer.json there"
            )
        require_unchanged(folder, file.name, "tokenizer_config.json")
        content = validate.read_json(file)
        config = folder / "tokenizer_config.json"
        eos = validate.read_json(config).get("eos_token") if config.exists() else None
        eos = eos.get("content") if isinstance(eos, dict) else eos
        return cls(content, name=str(file), eos_token=eos if isinstance(eos, str) else None)

    from_pretrained = load

    @classmethod
    def from_vocab_and_merges(cls, vocab: str | Path, merges: str | Path) -> Self:
        """Read the two files OpenAI published: `vocab.json` (`encoder.json`) and `merges.txt` (`vocab.bpe`).

        Raises:
            TokenizerError: missing, damaged, or not fitting each other.
        """
        table = validate.read_json(Path(vocab))
        lines = validate.read_text(Path(merges)).split("\n")
        pairs = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
        eos = {"id": table.get(END_OF_TEXT, len(table)), "content": END_OF_TEXT}
        return cls(gpt2_definition(table, pairs, eos), name=f"{vocab} with {merges}")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, allow_fewer: bool = False) -> Self:
        """Learn a vocabulary: `<|endoftext|>` (id 0), the 256 bytes, then the merges, most frequent first.

        The same texts in any order give the same tokenizer.

        Args:
            texts: read once, never held together; `<|endoftext|>` in them parts documents.
            vocab_size: number of ids wanted, 257 or more.
            min_frequency: pairs seen less often are not merged.
            allow_fewer: take what the text supports, if that is less than `vocab_size`.

        Raises:
            TokenizerError: `vocab_size` is out of range or larger than the text supports.
        """
        return cls(learn_merges(texts, vocab_size, min_frequency=min_frequency, allow_fewer=allow_fewer))

    @classmethod
    def train_from_files(
        cls,
        paths: Iterable[str | Path],
        vocab_size: int,
        *,
        text_format: TextFormat = DEFAULT_FORMAT,
        min_frequency: int = 2,
        allow_fewer: bool = False,
    ) -> Self:
        """`train` on the documents of text files and folders (`gpt2.text_files`), in bounded memory.

        Raises:
            DataError: a file is missing, empty or not text.
            TokenizerError: as `train`.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else paths
        pieces = iter_pieces(find_text_files(paths), text_format)
        texts = (text for text, _ in pieces)
        return cls.train(texts, vocab_size, min_frequency=min_frequency, allow_fewer=allow_fewer)

    @functools.cached_property
    def _special(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._definition)

    @functools.cached_property
    def bulk_encoder(self) -> BulkEncoder:
        """For a lot of text; one per tokenizer, not for several threads at once."""
        return BulkEncoder(self)


def _unpickle(definition: str, eos_token: str | None) -> Tokenizer:
    return Tokenizer(definition, eos_token=eos_token)
