"""`gpt2 evaluate`: how good a model is on text."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from gpt2.data import Corpus
    from gpt2.evaluation.examine import Examination
    from gpt2.evaluation.judge import Judge


@dataclass(frozen=True)
class Evaluate:
    """How good a model is: bits per byte with its interval, beside baselines; its stories; whether it recites.

    docs/evaluation.md defines every figure.
    """

    model: Positional[str]
    """A run folder, any Hugging Face GPT-2 folder, hf:owner/name, a .pt beside tokenizer.json, or demo."""
    text: Positional[tuple[str, ...]] = ()
    """Text files or folders; none: the documents that the run held out."""
    train: tuple[str, ...] = ()
    """The text that the model has learned from, for baselines and memorisation; none: the run's own."""
    stories: int = 64
    """Stories to let the model write; 0: none."""
    seed: int = 0
    """Of the stories."""
    temperature: float = 0.8
    """Of the stories."""
    judge: str | None = None
    """Let a chat model grade the stories: base address of an OpenAI-compatible API. Key: $GPT2_JUDGE_KEY."""
    judge_model: str = "default"
    """The judge's name at that address."""
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
    weights: Literal["stored", "int8"] = "stored"
    """int8: what the model is worth with 8 bits per weight, as `gpt2 generate --weights int8` uses it."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 evaluate`."""
    options = tyro.cli(Evaluate, args=argv, prog="gpt2 evaluate")
    import torch

    from gpt2.cli.models import open_model
    from gpt2.data import survey
    from gpt2.errors import ConfigError
    from gpt2.evaluation import text
    from gpt2.evaluation.examine import examine
    from gpt2.model.ops.int8 import rounded

    if options.stories < 0:
        raise ConfigError(f"stories must be 0 or more, got {options.stories}")
    if not options.temperature > 0:
        raise ConfigError(f"temperature must be above 0 for stories that differ, got {options.temperature}")
    judge = _judge(options)
    model, tokenizer = open_model(options.model, options.device)
    if options.weights == "int8":
        model = rounded(model)
    model.compute_dtype = None if options.dtype == "float32" else torch.bfloat16
    formats: dict[str, Any] = {
        "split": options.split, "text_field": options.text_field, "encoding_errors": options.encoding_errors,
    }  # fmt: skip
    judged = text.from_files(options.text, **formats) if options.text else None
    corpus = survey(options.train, valid=options.text, **formats) if options.train else _own_text(options)
    judged = judged or text.held_out(options.model, corpus)
    if options.text and (note := text.leak_note(judged, corpus, options.model)):
        print(f"note: {note}", file=sys.stderr)
    training = text.training_shards(corpus, tokenizer) if corpus else None
    examination = examine(
        model, tokenizer, judged, training,
        stories=options.stories, seed=options.seed, temperature=options.temperature,
    )  # fmt: skip
    grades = _grades(judge, examination, judged.texts)
    if options.json:
        print(json.dumps({"model": options.model, **examination.to_json(), **({"judge": grades} if grades else {})}))
    else:
        from gpt2.evaluation.describe import describe, describe_grades

        print("\n".join([*describe(options.model, examination), *describe_grades(grades)]))
    return 0


def _own_text(options: Evaluate) -> "Corpus | None":
    """The run's text; if it is gone and another text is judged, a note and None."""
    from gpt2.errors import DataError
    from gpt2.evaluation.text import corpus_of

    try:
        return corpus_of(options.model)
    except DataError as error:
        if not options.text:
            raise
        print(f"note: without the training text ({error}) nothing is said on memorisation", file=sys.stderr)
        return None


def _judge(options: Evaluate) -> "Judge | None":
    """Who grades the stories: asked once before any work, so that a wrong address or name is told at once."""
    if options.judge is None or options.stories == 0:
        return None
    import os

    from gpt2.evaluation.judge import Judge

    judge = Judge(options.judge, options.judge_model, os.environ.get("GPT2_JUDGE_KEY"))
    judge.try_out()
    return judge


def _grades(judge: "Judge | None", examination: "Examination", held_out: Sequence[str]) -> dict[str, object] | None:
    """A judge's grades of the model's stories and of as many real ones; None: nobody was asked."""
    if judge is None or examination.stories is None:
        return None
    from gpt2.evaluation.judge import compare_with_real

    return compare_with_real(judge, [sample.text for sample in examination.stories.samples], held_out)
