"""`gpt2 evaluate`: how good a model is on text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Evaluate:
    """Loss, perplexity and bits per byte of a model, document by document (docs/architecture.md defines them)."""

    model: Positional[str]
    """A run folder, any Hugging Face GPT-2 folder, hf:owner/name, or a .pt beside tokenizer.json."""
    text: Positional[tuple[str, ...]] = ()
    """Text files or folders; none: the documents that the run held out."""
    split: Literal["auto", "paragraph"] = "auto"
    """Files without <|endoftext|> lines: one document each (auto) or one per block of lines (paragraph)."""
    text_field: str = "text"
    """Key of the text in .jsonl files."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: stop and name the place, or put U+FFFD in its stead."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 evaluate`."""
    options = tyro.cli(Evaluate, args=argv, prog="gpt2 evaluate")
    import torch

    from gpt2.checkpoint import load
    from gpt2.device import resolve_device
    from gpt2.evaluation.bits_per_byte import score_documents

    model, tokenizer = load(options.model, device=resolve_device(options.device))
    model.compute_dtype = None if options.dtype == "float32" else torch.bfloat16
    documents, num_bytes, source = _documents(options, tokenizer)
    score = score_documents(model, documents, num_bytes, tokenizer.eos_token_id)
    result = {
        "model": options.model,
        "text": source,
        "documents": len(documents),
        "bytes": int(score.num_bytes.sum()),
        "tokens": int(score.tokens.sum()),
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{source}: {len(documents):,} documents, {score.num_bytes.sum():,} bytes, {score.tokens.sum():,} tokens\n"
            f"loss           {score.loss:.4f} nats per token\n"
            f"perplexity     {score.perplexity:.3f}\n"
            f"bits per byte  {score.bits_per_byte:.4f}"
        )
    return 0


def _documents(options: Evaluate, tokenizer: Any) -> tuple[list[Any], list[int], str]:
    """Ids and bytes of the documents, and what they are."""
    import numpy as np

    from gpt2.data import iter_documents

    if not options.text:
        return _held_out(options.model, tokenizer)
    formats = {"split": options.split, "text_field": options.text_field, "encoding_errors": options.encoding_errors}
    ids, sizes = [], []
    for document in iter_documents(options.text, **formats):
        ids.append(np.array([tokenizer.eos_token_id, *tokenizer.encode(document)]))
        sizes.append(len(document.encode()))
    return ids, sizes, ", ".join(options.text)


def _held_out(model: str, tokenizer: Any) -> tuple[list[Any], list[int], str]:
    from gpt2.checkpoint import RunFolder
    from gpt2.data import prepare_corpus
    from gpt2.errors import DataError
    from gpt2.settings import TrainSettings, read_toml
    from gpt2.training.inputs import survey_text

    folder = RunFolder(model)
    if not folder.config.is_file():
        raise DataError(f"{model} was not trained here, so it has no held-out text; give a text to evaluate on")
    settings = TrainSettings.make(**read_toml(folder.config))
    shards = prepare_corpus(survey_text(settings, progress=True), tokenizer).valid
    ids = [shards.document(number) for number in range(shards.num_documents)]
    return ids, shards.document_bytes.tolist(), "the documents that the run held out"
