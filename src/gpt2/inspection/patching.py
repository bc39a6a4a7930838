"""Activation patching: which value, carried from one text into another, carries the answer (Meng et al., 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.intervals import interval
from gpt2.inspection.partial import from_layer, from_middle, logits_at
from gpt2.inspection.result import Check, Result
from gpt2.inspection.tokens import shorten, single_token, token_text
from gpt2.inspection.weights import head_output
from gpt2.model import GPT2

if TYPE_CHECKING:
    from gpt2.inspection.run import Run

# What is patched, and how a cell of the picture calls it.
_VALUES = {
    "stream": "the stream before a layer",
    "attention": "what a layer's attention adds",
    "mlp": "what a layer's MLP adds",
    "head": "what a head adds",
}
UNITS = tuple(_VALUES)


@dataclass(frozen=True)
class PatchGrid(Result):
    """How much of the clean text's answer a patch brings back: 0 none, 1 all. L layers; T positions or H heads."""

    kind = "patch_grid"
    unit: str
    clean: str
    corrupt: str
    answer: str
    against: str
    columns: list[str]
    """Tokens (of the clean and the corrupted text where they differ), or heads."""
    recovered: Tensor
    """(L, T) or (L, H)."""
    low: Tensor
    high: Tensor
    """95 % interval over pairs of texts; of one pair, its value."""
    clean_lead: float
    corrupt_lead: float
    """Logit of the answer minus logit of the other, in each text; means over pairs."""
    num_pairs: int
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"Where ‘{self.answer}’ rather than ‘{self.against}’ comes from"

    @property
    def summary(self) -> str:
        layer, column = divmod(int(self.recovered.argmax()), self.recovered.shape[1])
        where = "head" if self.unit == "head" else "position"
        return (
            f"The lead is {self.clean_lead:+.2f} logits in {self.clean} and {self.corrupt_lead:+.2f} in "
            f"{self.corrupt}; patching the {self.unit} at layer {layer}, {where} {column} brings back most "
            f"of the difference, {float(self.recovered[layer, column]):.0%}."
        )

    @property
    def how_to_read(self) -> str:
        over = f", mean of {self.num_pairs} pairs" if self.num_pairs > 1 else ""
        return (
            f"Each cell: {_VALUES[self.unit]} in {self.clean}, put into {self.corrupt}; how much of the lead that "
            f"brings back (0 none, 1 all{over}; without a number: under 0.005). Orange: it makes the lead worse."
        )

    def rows(self) -> list[list[str]]:
        cells = [
            (layer, column) for layer in range(self.recovered.shape[0]) for column in range(self.recovered.shape[1])
        ]
        cells.sort(key=lambda cell: -abs(float(self.recovered[cell])))
        lines = [
            [
                str(i),
                str(j),
                self.columns[j],
                *(f"{float(x[i, j]):+.3f}" for x in (self.recovered, self.low, self.high)),
            ]
            for i, j in cells[:20]
        ]
        return [["layer", "column", "of", "brings back", "from", "to"], *lines]

    def _size(self) -> tuple[float, float]:
        layers, columns = self.recovered.shape
        return min(11.0, max(5.5, 0.44 * columns + 2.2)), 0.34 * layers + 1.5

    def _draw(self, canvas: Canvas) -> None:
        layers, columns = self.recovered.shape
        cells = [[f"{v:.2f}" if abs(v) >= 0.005 else "" for v in row] for row in self.recovered.tolist()]
        axes = canvas.axes()
        canvas.matrix(
            axes, self.recovered, signed=True, top=max(1.0, float(self.recovered.abs().max())),
            rows=[str(i) for i in range(layers)], columns=[shorten(name, 16) for name in self.columns],
            cells=cells if columns <= 24 else None, bar="brought back",
        )  # fmt: skip
        axes.tick_params(axis="x", rotation=0 if self.unit == "head" else 90)
        axes.set(
            ylabel="layer", xlabel="head" if self.unit == "head" else "position of the patch (clean / corrupted token)"
        )


@torch.no_grad()
def patch_grid(
    clean: "Run | Sequence[Run]", corrupt: "Run | Sequence[Run]", answer: str | int | Sequence[str | int],
    against: str | int | Sequence[str | int], *, unit: str = "stream",
) -> PatchGrid:  # fmt: skip
    """Carry each value from a clean run into a corrupted one, and see how the answer's lead comes back.

    Args:
        clean: a run, or several, in which the model gives the answer.
        corrupt: as many, with the same numbers of tokens, in which it does not.
        answer: token that follows the clean text; one, or one per pair.
        against: token it is compared with.
        unit: "stream" (before each layer, by position), "attention" or "mlp" (what it adds, by position), or "head"
            (all positions at once).

    Raises:
        ConfigError: texts of different lengths, tokens that are none, an unknown unit, or pairs whose lead does not
            differ.
    """
    if unit not in UNITS:
        raise ConfigError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    cleans, corrupts = _listed(clean), _listed(corrupt)
    answers, rivals = _each(answer, len(cleans)), _each(against, len(cleans))
    pairs = list(zip(cleans, corrupts, answers, rivals, strict=True))
    grids, leads, gaps = [], [], []
    for one, other, yes, no in pairs:
        _require_alike(one, other, cleans[0])
        ids = tuple(single_token(one.tokenizer, token, one.model.config.vocab_size) for token in (yes, no))
        grid, lead, gap = _pair(one, other, ids, unit)
        grids.append(grid)
        leads.append(lead)
        gaps.append(gap)
    low, high = interval(torch.stack(grids), torch.ones(len(grids)))
    model, first = cleans[0].model, cleans[0]
    names = [
        a if a == b else f"{a} / {b}" for a, b in zip(first.tokens, corrupts[0].tokens, strict=True)
    ] if unit != "head" else [str(head) for head in range(model.config.num_heads)]  # fmt: skip
    ids = [single_token(first.tokenizer, token, model.config.vocab_size) for token in (answers[0], rivals[0])]
    return PatchGrid(
        unit=unit, clean=first.label, corrupt=corrupts[0].label, answer=token_text(first.tokenizer, ids[0]),
        against=token_text(first.tokenizer, ids[1]), columns=names, recovered=torch.stack(grids).mean(dim=0).cpu(),
        low=low, high=high, clean_lead=sum(lead[0] for lead in leads) / len(leads),
        corrupt_lead=sum(lead[1] for lead in leads) / len(leads), num_pairs=len(pairs),
        check=Check("patched everywhere before layer 0 the lead is the clean text's, nowhere its own", max(gaps)),
    )  # fmt: skip


def _pair(clean: "Run", corrupt: "Run", ids: tuple[int, ...], unit: str) -> tuple[Tensor, tuple[float, float], float]:
    """Shares brought back (L, T or H), the two leads, and how far the two ends are off."""
    model = clean.model

    def lead(logits: Tensor) -> Tensor:
        return logits[..., ids[0]] - logits[..., ids[1]]

    best, worst = float(lead(clean.logits[-1])), float(lead(corrupt.logits[-1]))
    if abs(best - worst) < 1e-3:
        raise ConfigError(
            f"the lead is the same in {clean.label} and {corrupt.label} ({best:+.3f} logits): nothing to bring back"
        )
    rows = [
        (lead(logits_at(model, _patched(model, clean, corrupt, layer, unit), -1)) - worst) / (best - worst)
        for layer in range(model.config.num_layers)
    ]
    ends = [from_layer(model, 0, run.cache.view(("resid_pre", 0))) for run in (clean, corrupt)]
    found = [float(lead(logits_at(model, end, -1))[0]) for end in ends]
    gap = max(abs(found[0] - best), abs(found[1] - worst)) / max(1.0, abs(best), abs(worst))
    return torch.stack(rows), (best, worst), gap


def _patched(model: GPT2, clean: "Run", corrupt: "Run", layer: int, unit: str) -> Tensor:
    """The normalised end of the corrupted text, once for each patch of a layer: (T or H, T, D)."""

    def difference(short: str) -> Tensor:
        return clean.cache.view((short, layer))[0] - corrupt.cache.view((short, layer))[0]

    if unit == "head":
        middle = corrupt.cache.view(("resid_mid", layer))
        deltas = torch.einsum("thd,hdm->htm", difference("z"), head_output(model, layer))
        return from_middle(model, layer, middle + deltas)
    name, base = {
        "stream": ("resid_pre", "resid_pre"), "attention": ("attn_out", "resid_mid"), "mlp": ("mlp_out", "resid_post"),
    }[unit]  # fmt: skip
    delta, stream = difference(name), corrupt.cache.view((base, layer))
    each = torch.diag_embed(delta.T).permute(1, 2, 0)  # (T, T, D): patch t changes position t alone
    if unit == "attention":
        return from_middle(model, layer, stream + each)
    return from_layer(model, layer + (unit == "mlp"), stream + each)


def _require_alike(clean: "Run", corrupt: "Run", first: "Run") -> None:
    if len(clean.ids) != len(corrupt.ids):
        raise ConfigError(
            f"the texts must have equally many tokens: {clean.label} has {len(clean.ids)} ({' '.join(clean.tokens)}), "
            f"{corrupt.label} {len(corrupt.ids)} ({' '.join(corrupt.tokens)})"
        )
    if len(clean.ids) != len(first.ids):
        raise ConfigError("pairs that are averaged must all have equally many tokens")


def _listed(runs: "Run | Sequence[Run]") -> "list[Run]":
    return list(runs) if isinstance(runs, (list, tuple)) else [runs]  # pyright: ignore


def _each(tokens: str | int | Sequence[str | int], count: int) -> list[str | int]:
    return [tokens] * count if isinstance(tokens, (str, int)) else list(tokens)
