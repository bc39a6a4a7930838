"""The parameter ledger: where each parameter sits, what it takes up, and what it does for one token."""

import re
from dataclasses import dataclass

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result
from gpt2.model import GPT2
from gpt2.model.flops import count_parameters, flops_per_token

# Part -> the parameters in it; what has none of its own stands between those it works with.
_PARTS = {
    "token embedding": r"wte\.weight",
    "position embedding": r"wpe\.weight",
    "norms": r".*ln_\w+\.\w+",
    "attention: q, k, v": r".*attn\.c_attn\.\w+",
    "attention: scores, mixing": None,
    "attention: output": r".*attn\.c_proj\.\w+",
    "MLP: widen": r".*mlp\.c_fc\.\w+",
    "MLP: narrow": r".*mlp\.c_proj\.\w+",
    "logits": None,
}


@dataclass(frozen=True)
class LedgerEntry:
    """One parameter of each layer, all layers together."""

    part: str
    name: str
    """Its name in files, `{l}` for the layer; empty: the part has none of its own."""
    shape: tuple[int, ...]
    times: int
    """In how many layers it is."""
    count: int
    """Numbers, all layers together."""
    bytes: int
    flops: int
    """Of one token's forward pass, all layers together."""


@dataclass(frozen=True)
class ParameterLedger(Result):
    """Every parameter of a model, and the arithmetic it takes part in."""

    kind = "parameters"
    entries: tuple[LedgerEntry, ...]
    total: int
    bytes: int
    flops: int
    """Floating-point operations of the forward pass per token, mean over a full context."""
    context_length: int
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"Where {self.total:,} parameters sit, and what they do"

    @property
    def summary(self) -> str:
        counts, flops = self.by_part("count"), self.by_part("flops")
        most, busiest = max(counts, key=counts.__getitem__), max(flops, key=flops.__getitem__)
        return (
            f"{self.total:,} parameters in {_bytes(self.bytes)}; {most} holds the largest share, "
            f"{counts[most] / self.total:.0%}; {_flops(self.flops)} per token, the largest share in {busiest}, "
            f"{flops[busiest] / self.flops:.0%}."
        )

    @property
    def how_to_read(self) -> str:
        return (
            "Operations are those of the matrix products, two for each product and sum, mean over a context of "
            f"{self.context_length:,} tokens. The logits use the token embedding again."
        )

    def by_part(self, what: str) -> dict[str, int]:
        """Part -> sum of "count", "bytes" or "flops"."""
        return {part: sum(getattr(e, what) for e in self.entries if e.part == part) for part in _PARTS}

    def rows(self) -> list[list[str]]:
        lines = [
            [e.part, e.name, _shape(e), _number(e.count), f"{e.count / self.total:.1%}" if e.count else "",
             _number(e.bytes), _number(e.flops)]
            for e in self.entries
        ]  # fmt: skip
        total = ["all", "", "", f"{self.total:,}", "100.0%", f"{self.bytes:,}", f"{self.flops:,}"]
        return [["part", "parameter", "shape", "parameters", "share", "bytes", "FLOPs per token"], *lines, total]

    def _size(self) -> tuple[float, float]:
        return 8.4, 3.1

    def _draw(self, canvas: Canvas) -> None:
        left, right = canvas.axes(1, 2)[0]
        for axes, what, total, label in (
            (left, "count", self.total, "parameters"), (right, "flops", self.flops, "FLOPs per token"),
        ):  # fmt: skip
            values = self.by_part(what)
            texts = [f"{value / total:.1%}" if value else "none" for value in values.values()]
            canvas.bars(axes, list(values), list(values.values()), texts)
            axes.set_xlabel(label)
            axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        left.set_xlim(right=1.12 * left.get_xlim()[1])
        right.set_xlim(right=1.12 * right.get_xlim()[1])
        right.set_yticks(range(len(_PARTS)), [""] * len(_PARTS))


def parameter_ledger(model: GPT2) -> ParameterLedger:
    """Count a model's parameters, bytes and forward operations, part by part; docs/architecture.md, `model/flops.py`.

    Args:
        model: any; its parameters are read, not its configuration, and the sums compared with the closed formulas.
    """
    config, found = model.config, dict[str, list]()
    for name, parameter in model.named_parameters():
        found.setdefault(re.sub(r"\bh\.\d+\.", "h.{l}.", name.removeprefix("transformer.")), []).append(parameter)
    entries = []
    for part, pattern in _PARTS.items():
        for name in [name for name in found if pattern is not None and re.fullmatch(pattern, name)]:
            same = found.pop(name)
            count = sum(parameter.numel() for parameter in same)
            multiplies = same[0].ndim == 2 and "h." in name
            size = sum(parameter.numel() * parameter.element_size() for parameter in same)
            entries.append(
                LedgerEntry(part, name, tuple(same[0].shape), len(same), count, size, 2 * count * multiplies)
            )
        if part == "attention: scores, mixing":  # a token sees half of a context on average: 2 products, 2 operations
            work = 2 * config.num_layers * config.d_model * config.context_length
            entries.append(LedgerEntry(part, "", (), config.num_layers, 0, 0, work))
        if part == "logits":
            entries.append(LedgerEntry(part, "", (), 1, 0, 0, 2 * config.vocab_size * config.d_model))
    total, flops = sum(e.count for e in entries), sum(e.flops for e in entries)
    off = abs(total - model.num_parameters()) + abs(total - count_parameters(config)) + len(found)
    return ParameterLedger(
        tuple(entries), total, sum(e.bytes for e in entries), flops, config.context_length,
        Check("the parts add up to the model's parameters and to the closed formulas of GPT-2's size and arithmetic",
              float(off) + abs(flops - flops_per_token(config) / 3)),
    )  # fmt: skip


def _shape(entry: LedgerEntry) -> str:
    size = " x ".join(f"{n:,}" for n in entry.shape)
    return f"{entry.times} of {size}" if size and entry.times > 1 else size


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _flops(count: int) -> str:
    return f"{count / 1e9:.2f} GFLOP" if count >= 1e9 else f"{count / 1e6:.2f} MFLOP"
