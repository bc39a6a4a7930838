"""`gpt2 inspect`: look inside a model, as tables in the terminal; pictures and JSON on request."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from gpt2.inspection.result import Result
    from gpt2.inspection.views import Question

VIEW_NAMES = Literal[
    "overview", "checks", "surprise", "odds", "lens", "attribution", "attention", "head", "residual", "ablation",
    "patch", "kinds", "induction", "dependency", "parameters", "neighbours", "words", "positions", "timeline",
]  # fmt: skip


@dataclass(frozen=True)
class Looking:
    """Options that say what to look at; a view takes what it needs (docs/inspection.md)."""

    layer: int | None = None
    """Layer, from 0; negative ones count from the end."""
    head: int | None = None
    """Head, from 0."""
    position: int = -1
    """Position in the text, from 0; -1 is the last. Position 0 is <|endoftext|>."""
    target: str | None = None
    """A token, with its leading space: " dog"."""
    against: str | None = None
    """A token to compare the target with."""
    unit: Literal["component", "head", "neuron", "stream", "attention", "mlp"] | None = None
    """What to tell apart: attribution by component, head or neuron; patches of stream, attention, mlp or head."""
    corrupt: str | None = None
    """patch: the other text, of equally many tokens."""
    k: int | None = None
    """How many tokens to name."""
    temperatures: tuple[float, ...] = (0.5, 1.0, 1.5)
    """odds: at these."""
    measure: str = "induction"
    """timeline: loss, induction, attention, residual or surprise."""
    how: Literal["zero", "mean", "resample"] = "mean"
    """ablation: put zero, the mean, or another text's value in."""
    hide_first: bool = False
    """attention: leave the first token, where attention rests, out of the colours."""
    ablate: tuple[str, ...] = ()
    """Take parts out first: 1.2 for head 2 of layer 1, mlp.0, attn.3, or a value's name."""
    text: tuple[str, ...] = ()
    """ablation, kinds: text files to measure on; none: what the run held out, else bundled stories."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


@dataclass(frozen=True)
class Inspect:
    """Look inside a model: what it computes on a text, or how it is made."""

    model: Positional[str]
    """A run folder, any Hugging Face GPT-2 folder, hf:owner/name, a .pt beside tokenizer.json, or demo."""
    prompt: Positional[str | None] = None
    """The text; <|endoftext|> is put before it, as before every document in training. None: "Once upon a time"."""
    view: VIEW_NAMES = "overview"
    """What to show; overview: surprise, odds, and whether all checks hold."""
    options: Annotated[Looking, tyro.conf.arg(name="")] = field(default_factory=Looking)
    out: str | None = None
    """Also save the picture (.svg, .png) or the numbers (.json)."""
    theme: Literal["light", "dark", "print"] = "light"
    """Of the picture."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 inspect`."""
    options = tyro.cli(Inspect, args=argv, prog="gpt2 inspect")
    from gpt2.errors import ConfigError

    if options.view == "overview" and options.out is not None:
        raise ConfigError("the overview is several views; choose one to save with --view")
    require_endings([options.out] if options.out is not None else [])
    question = ask(options.model, options.prompt, options.view, options.options)
    names = ["surprise", "odds", "checks"] if options.view == "overview" else [options.view]
    results = look(question, names)
    if options.json:
        shown: Any = {result.kind: result.to_json() for result in results} if len(results) > 1 else results[0].to_json()
        _write(json.dumps(shown, ensure_ascii=False))
    else:
        _write("\n\n".join(str(result) for result in results))
    if options.out is not None:
        path = results[0].save(options.out, options.theme)
        print(f"saved {path}", file=sys.stderr)
    return 0 if all(result.check is None or result.check.ok for result in results) else 1


def require_endings(files: Sequence[str]) -> None:
    """Refuse what cannot be saved before any work is done."""
    from pathlib import Path

    from gpt2.errors import ConfigError

    for file in files:
        if Path(file).suffix.lower() not in (".svg", ".png", ".json"):
            raise ConfigError(f"{file} must end in .svg, .png or .json")


def ask(model: str, prompt: str | None, view: str, options: Looking) -> "Question":
    """The model loaded, and what is asked of it."""
    from gpt2.cli.models import open_model
    from gpt2.errors import ConfigError
    from gpt2.inspection.views import Question

    if options.k is not None and options.k < 1:
        raise ConfigError(f"k must be 1 or more, got {options.k}")
    loaded, tokenizer = open_model(model, options.device)
    if view != "parameters":  # in 16 bits the identities would tell of rounding, not of the model
        loaded.float()
    texts = _texts(model, options) if view in ("ablation", "kinds") else None
    return Question(
        loaded, tokenizer, prompt, model, options.layer, options.head, options.position, options.k, options.target,
        options.against, options.unit, options.corrupt, options.temperatures, options.measure, options.how,
        options.hide_first, texts, tuple(_part(name) for name in options.ablate),
    )  # fmt: skip


def look(question: "Question", names: Sequence[str]) -> "list[Result]":
    """The views, one after another."""
    from gpt2.inspection.views import view

    return [view(name, question) for name in names]


def _part(name: str) -> Any:
    """`1.2`, `mlp.0`, `attn.3` or a value's name, as an ablation to zero."""
    from gpt2.inspection import ablate

    first, _, second = name.partition(".")
    if second.isdigit() and first.isdigit():
        return ablate(head=(int(first), int(second)))
    if second.isdigit() and first == "mlp":
        return ablate(mlp=int(second))
    if second.isdigit() and first == "attn":
        return ablate(attn=int(second))
    return ablate(name)


def _texts(model: str, options: Looking) -> list[str] | None:
    """Documents to measure on: given files, else what the run held out, else None for bundled stories."""
    from gpt2.errors import DataError
    from gpt2.evaluation.text import corpus_of, from_files, held_out

    if options.text:
        return from_files(options.text).first(64).texts
    try:
        corpus = corpus_of(model, progress=False)
    except DataError as error:
        print(f"note: measured on bundled stories, for the run's own text cannot be read ({error})", file=sys.stderr)
        return None
    if corpus is None:
        print("note: measured on bundled stories, for the model was not trained here", file=sys.stderr)
        return None
    return held_out(model, corpus).first(64).texts


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, errors="replace").decode(encoding))
