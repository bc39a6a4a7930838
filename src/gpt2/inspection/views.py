"""Every view by name, made from a model, a text and a few options: what the command line and a server call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from gpt2.errors import ConfigError, nearest
from gpt2.inspection.ablation import ablation_grid
from gpt2.inspection.dependency import dependency
from gpt2.inspection.embedding import embedding_map, neighbours, position_similarity
from gpt2.inspection.heads import head_kinds
from gpt2.inspection.induction import induction
from gpt2.inspection.interventions import Intervention
from gpt2.inspection.ledger import parameter_ledger
from gpt2.inspection.patching import patch_grid
from gpt2.inspection.result import Result
from gpt2.inspection.run import Run, run
from gpt2.inspection.timeline import timeline
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """What to look at. A view takes what it needs and leaves the rest."""

    model: GPT2
    tokenizer: Tokenizer
    text: str | None = None
    """None: the view's own, or "Once upon a time"."""
    folder: str = ""
    """The run, for timelines."""
    layer: int | None = None
    head: int | None = None
    position: int = -1
    k: int | None = None
    """How many tokens to name."""
    target: str | None = None
    against: str | None = None
    unit: str | None = None
    corrupt: str | None = None
    """The other text of a patch."""
    temperatures: tuple[float, ...] = (0.5, 1.0, 1.5)
    measure: str = "induction"
    how: Literal["zero", "mean", "resample"] = "mean"
    hide_first: bool = False
    texts: list[str] | None = None
    """Documents that ablations and head kinds are measured on."""
    do: tuple[Intervention, ...] = field(default=())

    @property
    def run(self) -> Run:
        """The text, run."""
        return run(self.model, self.tokenizer, "Once upon a time" if self.text is None else self.text, do=self.do)


def _neighbours(q: Question) -> Result:
    if q.target is None:
        raise ConfigError('neighbours needs a token: --target " dog" (within a text, words have a space before them)')
    return neighbours(q.model, q.tokenizer, q.target, q.k or 12)


def _patch(q: Question) -> Result:
    if q.corrupt is None or q.target is None or q.against is None:
        raise ConfigError(
            'patch needs a second text and two answers: --corrupt "..." --target " Tom" --against " Lily"'
        )
    pair = q.run, run(q.model, q.tokenizer, q.corrupt)
    return patch_grid(*pair, q.target, q.against, unit=q.unit or "stream")


def _timeline(q: Question) -> Result:
    given = {} if q.text is None else {"text": q.text}
    return timeline(q.folder, q.measure, layer=q.layer or 0, head=q.head or 0, **given)


VIEWS: dict[str, tuple[str, Callable[[Question], Result]]] = {
    "checks": ("the identities that prove all the rest", lambda q: q.run.checks),
    "surprise": ("what each token cost, and what was likelier", lambda q: q.run.surprise(q.k or 5)),
    "odds": ("the next token, at several temperatures", lambda q: q.run.odds(q.position, q.temperatures, q.k or 12)),
    "lens": ("what the model would say after each layer", lambda q: q.run.logit_lens(q.k or 5)),
    "attribution": (
        "what each part adds to a logit",
        lambda q: q.run.dla(q.target, q.against, unit=q.unit or "component", position=q.position),
    ),
    "attention": (
        "who looks at whom: all heads, or one with --layer and --head",
        lambda q: q.run.attention(q.layer, q.head, hide_first=q.hide_first),
    ),
    "head": ("one head at one query, step by step", lambda q: q.run.head(q.layer or 0, q.head or 0, q.position)),
    "residual": ("length of the stream, layer by layer", lambda q: q.run.residual_norms()),
    "ablation": (
        "what the loss is without each head and MLP",
        lambda q: ablation_grid(q.model, q.tokenizer, q.texts, how=q.how),
    ),
    "patch": ("which value carries an answer from one text to another", _patch),
    "kinds": ("what the heads do", lambda q: head_kinds(q.model, q.tokenizer, q.texts)),
    "induction": ("which heads continue what they have seen", lambda q: induction(q.model, q.tokenizer)),
    "dependency": ("which inputs each output depends on", lambda q: dependency(q.model)),
    "parameters": ("where each parameter sits, and what it costs", lambda q: parameter_ledger(q.model)),
    "neighbours": ("tokens near a token in the embedding", _neighbours),
    "words": (
        "a map of frequent words in the embedding",
        lambda q: embedding_map(q.model, q.tokenizer, count=q.k or 160),
    ),
    "positions": ("how alike position embeddings are", lambda q: position_similarity(q.model)),
    "timeline": ("a measure over the snapshots of a run", _timeline),
}
"""Name -> (what it shows, function)."""

OF_A_TEXT = ("checks", "surprise", "odds", "lens", "attribution", "attention", "head", "residual", "patch")
"""Views of one text; the others are of the model alone."""


def view(name: str, question: Question) -> Result:
    """The view called `name`.

    Raises:
        ConfigError: there is none, or it lacks an option.
    """
    if name not in VIEWS:
        raise ConfigError(f"unknown view {name!r}.{nearest(name, VIEWS)} There are {', '.join(VIEWS)}")
    return VIEWS[name][1](question)
