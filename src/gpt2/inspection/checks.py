"""The identities that prove a run: what is shown adds up to what the model computed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gpt2.inspection.cache import forward
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result, difference

if TYPE_CHECKING:
    from gpt2.inspection.run import Run


@dataclass(frozen=True)
class Checks(Result):
    """All identities of a run, each with how far it is from holding."""

    kind = "checks"
    of: str
    items: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all hold."""
        return all(item.ok for item in self.items)

    def __iter__(self) -> Iterator[Check]:  # pyright: ignore
        return iter(self.items)

    @property
    def title(self) -> str:
        return f"Checks of {self.of}"

    @property
    def summary(self) -> str:
        held = sum(item.ok for item in self.items)
        return f"{held} of {len(self.items)} identities hold; the largest is off by {self.worst:.1e}."

    @property
    def worst(self) -> float:
        """The largest residual of all."""
        return max((item.residual for item in self.items), default=0.0)

    def rows(self) -> list[list[str]]:
        lines = [[item.sentence, f"{item.residual:.1e}", "holds" if item.ok else "FAILS"] for item in self.items]
        return [["identity", "off by", ""], *lines]

    def _size(self) -> tuple[float, float]:
        return 7.5, 0.28 * len(self.items) + 0.5

    def _draw(self, canvas: Canvas) -> None:
        axes = canvas.axes()
        floor = 1e-9
        values = [max(item.residual, floor) for item in self.items]
        axes.hlines(range(len(values)), floor, values, color=canvas.theme.accent, linewidth=2)
        axes.plot(values, range(len(values)), "o", color=canvas.theme.accent, markersize=5, clip_on=False, zorder=3)
        axes.axvline(1e-4, color=canvas.theme.second, linewidth=1, linestyle="--")
        axes.set(xscale="log", xlim=(floor, max(1e-3, 3 * max(values, default=0.0))), ylim=(len(values) - 0.4, -0.6))
        axes.set_xticks([1e-9, 1e-7, 1e-5, 1e-3], ["exact", "1e-7", "1e-5", "1e-3"])
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(len(values)), [item.sentence for item in self.items])
        axes.set_xlabel("off by (share of the largest value); dashed: tolerance")


# Values that, when intervened on, make an identity untrue by intention.
_UNDONE_BY = {
    "residual": ("hook_resid_pre", "hook_resid_mid", "hook_resid_post"),
    "heads": ("hook_attn_out",),
    "neurons": ("hook_mlp_out",),
    "pattern": ("hook_pattern", "hook_attn_scores"),
    "final": ("ln_final.hook_scale", "ln_final.hook_normalized"),
}


def checks_of(run: "Run") -> Checks:
    """Compute every identity that holds for this run; an intervention undoes those of the values it sets."""
    changed = {item.site.name for item in run.interventions}

    def stands(group: str) -> bool:
        return not any(name.endswith(_UNDONE_BY[group]) for name in changed)

    before = run.cache.copy()
    items: list[Check] = []
    if stands("residual"):
        items.append(_residual(run))
    if stands("heads"):
        items.append(_heads(run))
    if stands("pattern"):
        items += [_rows_sum(run), _no_future(run)]
    if stands("final"):
        items.append(_check_of(run.logit_lens(1)))
    units = [("component", True), ("head", stands("heads")), ("neuron", stands("neurons"))]
    if stands("final") and stands("residual"):
        items += [_check_of(run.dla(unit=unit)) for unit, valid in units if valid]
    items.append(_same_again(run))
    if not changed:
        items.append(_cached_generation(run))
    unchanged = run.cache.equals(before)
    items.append(Check("these analyses left the cache as it was, bit for bit", 0.0 if unchanged else 1.0, 0.0))
    return Checks(run.label, tuple(items))


def _residual(run: "Run") -> Check:
    view, layers = run.cache.view, run.model.config.num_layers
    total = view("embed") + view("pos_embed")
    for layer in range(layers):
        total = total + view(("attn_out", layer)) + view(("mlp_out", layer))
    residual = difference(total, view(("resid_post", layers - 1)))
    return Check("embeddings and all branches add up to the final stream", residual)


def _heads(run: "Run") -> Check:
    def gap(layer: int) -> float:
        bias = run.model.transformer.h[layer].attn.c_proj.bias.detach()  # pyright: ignore
        return difference(run.head_results(layer).sum(dim=2) + bias, run.cache.view(("attn_out", layer)))

    return Check("heads and bias add up to what attention adds", _worst(run, gap))


def _rows_sum(run: "Run") -> Check:
    def gap(layer: int) -> float:
        sums = run.cache.view(("pattern", layer)).sum(dim=-1)
        return difference(sums, torch.ones_like(sums))

    return Check("every row of attention sums to 1", _worst(run, gap))


def _no_future(run: "Run") -> Check:
    worst = _worst(run, lambda layer: float(run.cache.view(("pattern", layer)).triu(1).abs().max()))
    return Check("no token sees a later one", worst, 0.0)


def _check_of(view: Result) -> Check:
    assert view.check is not None
    return view.check


def _same_again(run: "Run") -> Check:
    """Setting a value to itself is no change: the tapped run again, bit for bit."""
    edits = {name: [*run.edits.get(name, []), torch.clone] for name in run.cache}
    logits, _ = forward(run.model, run.ids[None], edits, keep=lambda name: False)
    same = torch.equal(logits[0], run.logits)
    return Check("an intervention that changes nothing gives the same bits", 0.0 if same else 1.0, 0.0)


@torch.no_grad()
def _cached_generation(run: "Run") -> Check:
    with run.model.evaluating():
        cache, rows = run.model.new_cache(1), []
        for token in run.ids.split(1):
            rows.append(run.model(token[None], cache=cache)[0])
    return Check("token by token with a KV cache the logits are the same", difference(torch.cat(rows), run.logits))


def _worst(run: "Run", gap: Callable[[int], float]) -> float:
    return max(gap(layer) for layer in range(run.model.config.num_layers))
