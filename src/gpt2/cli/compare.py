"""`gpt2 compare`: which model is better, and whether that can be told from noise."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from gpt2.evaluation.bits_per_byte import Score
    from gpt2.evaluation.text import Judged


@dataclass(frozen=True)
class Compare:
    """Compare models over the same documents, in bits per byte: their tokenizers may differ.

    `gpt2 compare A B C` sets each model against the first. `gpt2 compare A1 A2 A3 --against B1 B2 B3` compares two
    recipes, each given by runs with different seeds.
    """

    models: Positional[tuple[str, ...]]
    """Run folders, any Hugging Face GPT-2 folders, hf:owner/name, or .pt files beside tokenizer.json."""
    against: tuple[str, ...] = ()
    """Runs of another recipe; all of `models` are then runs of one."""
    text: tuple[str, ...] = ()
    """Text files or folders; none: the documents that the first run held out."""
    seed_noise: float | None = None
    """Standard deviation over seeds, as a share of bits per byte, where there is one run; none: assumed by the steps
    that the run has made; 0: seeds do not matter."""
    split: Literal["auto", "paragraph"] = "auto"
    """Files without <|endoftext|> lines: one document each (auto) or one per block of lines (paragraph)."""
    text_field: str = "text"
    """Key of the text in .jsonl files."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: stop and name the place, or put U+FFFD in its stead."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 compare`."""
    options = tyro.cli(Compare, args=argv, prog="gpt2 compare")
    from gpt2.errors import ConfigError
    from gpt2.evaluation.compare import compare

    if options.seed_noise is not None and not 0 <= options.seed_noise < 1:
        raise ConfigError(f"seed_noise is a share of bits per byte and must lie in [0, 1), got {options.seed_noise}")
    if len(options.models) + len(options.against) < 2:
        raise ConfigError("give two models or more to compare; gpt2 evaluate judges a single one")
    names = [*options.models, *options.against]
    _require_there(names)
    judged = _judged(options)
    scores = [_score(name, judged, options) for name in names]
    _warn_of_leaks(names, judged)
    noises = [_noise(name) if options.seed_noise is None else options.seed_noise for name in names]
    first = len(options.models)
    if options.against:
        difference = compare(scores[:first], scores[first:], (noises[0], noises[first]))
        pairs = [("the runs given first", "those after --against", difference)]
    else:
        pairs = [
            (names[0], names[i], compare(scores[:1], [scores[i]], (noises[0], noises[i]))) for i in range(1, first)
        ]
    if options.json:
        print(json.dumps(_to_json(judged, names, scores, pairs)))
    else:
        print("\n".join(_lines(judged, names, scores, pairs)))
    return 0


def _require_there(names: Sequence[str]) -> None:
    """Refuse a path that is not there before any model is scored."""
    from gpt2.checkpoint import load
    from gpt2.checkpoint.demo import located
    from gpt2.checkpoint.hub import is_hub_name

    for name in names:
        if not is_hub_name(name) and not located(name).exists():
            load(name)  # which says so, and what is near


def _judged(options: Compare) -> "Judged":
    from gpt2.evaluation import text

    if not options.text:
        return text.held_out(options.models[0], text.corpus_of(options.models[0]))
    return text.from_files(
        options.text, split=options.split, text_field=options.text_field, encoding_errors=options.encoding_errors
    )


def _noise(name: str) -> float:
    """What another seed may have changed, by the steps that the run's record tells of."""
    from gpt2.checkpoint import RunFolder
    from gpt2.evaluation.compare import seed_noise
    from gpt2.report import read_metrics

    records = read_metrics(RunFolder(name).metrics)
    return seed_noise(max((record["step"] for record in records), default=None))


def _warn_of_leaks(names: list[str], judged: "Judged") -> None:
    """Say which of the runs have learned from documents that they are judged on."""
    from gpt2.errors import DataError
    from gpt2.evaluation.text import corpus_of, leak_note

    for name in dict.fromkeys(names):
        try:
            note = leak_note(judged, corpus_of(name), name)
        except DataError as error:
            note = f"{name}: whether it has learned from these documents is not known ({error})"
        if note:
            print(f"note: {note}", file=sys.stderr)


def _score(name: str, judged: "Judged", options: Compare) -> "Score":
    from gpt2.cli.models import open_model
    from gpt2.evaluation.bits_per_byte import score_documents

    model, tokenizer = open_model(name, options.device)
    return score_documents(model, judged.encode(tokenizer), judged.num_bytes, tokenizer.eos_token_id)


def _lines(judged: "Judged", names: list[str], scores: "list[Score]", pairs: list[Any]) -> list[str]:
    from gpt2.evaluation.describe import interval_text

    lines = [f"{len(judged.texts):,} documents, {judged.num_bytes.sum():,} bytes: {judged.source}", "", "bits per byte"]
    width = max(map(len, names))
    for name, score in zip(names, scores, strict=True):
        lines.append(f"  {name:<{width}}  {score.bits_per_byte:.4f}  {interval_text(score.interval(), '.4f')}")
    for one, other, difference in pairs:
        lines += [
            "",
            f"{one} less {other}: {difference.bits_per_byte:+.4f} bits per byte",
            f"  over documents            {_interval(difference.documents)}",
            f"  over documents and seeds  {_interval(difference.training)}  (seeds: {difference.seeds})",
            f"  {difference.verdict(one, other)}",
        ]
    return lines


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "a single document says nothing"


def _to_json(judged: "Judged", names: list[str], scores: "list[Score]", pairs: list[Any]) -> dict[str, Any]:
    models = [
        {"model": name, "bits_per_byte": score.bits_per_byte, "interval": score.interval(), "loss": score.loss}
        for name, score in zip(names, scores, strict=True)
    ]
    differences = [{"first": one, "second": other, **difference.to_json()} for one, other, difference in pairs]
    return {"text": judged.source, "documents": len(judged.texts), "models": models, "differences": differences}
