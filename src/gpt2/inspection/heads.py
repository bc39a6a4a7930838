"""What kind of head each one is: scores first, a name only where a shuffled pattern never gets that far."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.inspection.cache import forward
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.induction import frequent_ids, repeats
from gpt2.inspection.names import long_name
from gpt2.inspection.reference import Texts, batches, documents
from gpt2.inspection.result import Check, Result
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

KINDS = ("previous token", "itself", "same token before", "induction")
_LEAST = 0.2
"""A head whose largest score is below this is not named, whatever the baseline."""
_SHUFFLES = 10


@dataclass(frozen=True)
class HeadKinds(Result):
    """Shares of attention by kind of target. L layers, H heads, K kinds."""

    kind = "head_kinds"
    kinds: list[str]
    scores: Tensor
    """(L, H, K)."""
    threshold: Tensor
    """(K,): the highest that any head reaches when its attention is shuffled among the tokens it may see."""
    first_token: Tensor
    """(L, H): share on the first token, where attention rests; no kind of its own."""
    entropy: Tensor
    """(L, H) nats, on real text."""
    names: list[list[str]]
    """Kind of each head, or "" where no score stands out."""
    num_documents: int
    check: Check | None = None

    @property
    def title(self) -> str:
        return "What the heads do"

    @property
    def summary(self) -> str:
        named = [name for row in self.names for name in row if name]
        counts = ", ".join(f"{named.count(kind)} {kind}" for kind in self.kinds if kind in named) or "none"
        resting = int((self.first_token > 0.5).sum())
        return (
            f"Named: {counts}, of {self.scores.shape[0] * self.scores.shape[1]} heads; "
            f"{resting} rest on the first token with more than half of their attention."
        )

    @property
    def how_to_read(self) -> str:
        return (
            "Share of each head's attention by where it goes. Framed: above what shuffled attention ever reaches "
            f"(and above {_LEAST:.0%}). The first token is measured apart: attention rests there."
        )

    def rows(self) -> list[list[str]]:
        lines = []
        for i, row in enumerate(self.names):
            for j, name in enumerate(row):
                figures = [*self.scores[i, j].tolist(), float(self.first_token[i, j]), float(self.entropy[i, j])]
                lines.append([f"{i}.{j}", name or "-", *(f"{figure:.2f}" for figure in figures)])
        baseline = ["shuffled", "", *(f"{t:.2f}" for t in self.threshold.tolist()), "", ""]
        return [["head", "kind", *self.kinds, "first token", "entropy"], *lines, baseline]

    def _size(self) -> tuple[float, float]:
        return 6.4, 0.24 * self.scores.shape[0] * self.scores.shape[1] + 0.95

    def _draw(self, canvas: Canvas) -> None:
        from matplotlib.patches import Rectangle

        layers, heads, count = self.scores.shape
        values = torch.cat([self.scores, self.first_token[..., None]], dim=-1).flatten(0, 1)
        axes = canvas.axes()
        canvas.matrix(
            axes, values, top=1.0, rows=[f"{i}.{j}" for i in range(layers) for j in range(heads)],
            columns=[kind.replace(" ", "\n", 1) for kind in (*self.kinds, "first token")],
            cells=[[f"{v:.2f}" for v in row] for row in values.tolist()], bar="share of attention",
        )  # fmt: skip
        for row, name in enumerate(name for line in self.names for name in line):
            if name:
                place = (self.kinds.index(name) - 0.47, row - 0.46)
                axes.add_patch(Rectangle(place, 0.94, 0.92, fill=False, edgecolor=canvas.theme.second, linewidth=1.8))
        axes.xaxis.tick_top()
        axes.axvline(count - 0.5, color=canvas.theme.ink, linewidth=1)
        axes.set_ylabel("layer.head")


@torch.no_grad()
def head_kinds(
    model: GPT2, tokenizer: Tokenizer | None = None, texts: Texts | None = None, *, seed: int = 0
) -> HeadKinds:
    """Measure where each head looks: on texts, and on random repeats for what needs them.

    Args:
        model: any.
        tokenizer: for texts given as strings.
        texts: None: the first 64 bundled stories; without a tokenizer, give ids.
        seed: of the repeats and the shuffles.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = documents(model, tokenizer, texts)
    on_text, first, entropy, off = _on_text(model, rows, generator)
    on_repeats = _on_repeats(model, tokenizer, generator)
    scores, shuffled = (torch.cat(pair, dim=-1) for pair in zip(on_text, on_repeats, strict=True))
    threshold = shuffled.flatten(0, -2).amax(dim=0)
    above = torch.where((scores > threshold) & (scores >= _LEAST), scores, 0.0)
    best = above.max(dim=-1)
    names = [
        [KINDS[k] if v > 0 else "" for v, k in zip(*pair, strict=True)]
        for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return HeadKinds(
        list(KINDS), scores, threshold, first, entropy, names, len(rows),
        Check("rows sum to 1 and give the future nothing", off),
    )  # fmt: skip


Scores = tuple[Tensor, Tensor]
"""Of the heads (L, H, K), and of shuffled patterns (shuffles, L, H, K)."""


def _on_text(model: GPT2, rows: list[list[int]], generator: torch.Generator) -> tuple[Scores, Tensor, Tensor, float]:
    """Previous token and itself, with the first token's share, entropy, and how far rows are from summing to 1."""
    sums, total, off = [], 0, 0.0
    for ids, real in batches([row[: model.config.context_length] for row in rows], next(model.parameters()).device):
        patterns, time = _patterns(model, ids), ids.shape[1]
        queries = real.cpu().clone()
        queries[:, :2] = False  # of two tokens or fewer, first, previous and self are hardly different
        total += int(queries.sum())
        shifted = torch.stack([torch.eye(time).roll(-1, 1).tril(), torch.eye(time)])  # previous, itself
        targets = shifted.bool().expand(len(ids), 2, time, time)
        own, shuffled = _masses(patterns, targets, queries, generator)
        weight = queries[None, :, None].float()
        first = (patterns[..., 0] * weight).sum(dim=(1, 3))
        spread = (-(patterns.clamp(min=1e-12).log() * patterns).sum(dim=-1) * weight).sum(dim=(1, 3))
        off = max(off, float((patterns.sum(-1) - 1).abs().max()), float(patterns.triu(1).abs().max()))
        sums.append((own, shuffled, first, spread))
    own, shuffled, first, spread = (torch.stack(part).sum(dim=0) / max(total, 1) for part in zip(*sums, strict=True))
    return (own, shuffled), first, spread, off


def _on_repeats(model: GPT2, tokenizer: Tokenizer | None, generator: torch.Generator) -> Scores:
    """Same token before, and induction: only where there are earlier occurrences to find."""
    pool = frequent_ids(model, tokenizer) if tokenizer else model.config.vocab_size
    begin = tokenizer.eos_token_id if tokenizer else None
    drawn = repeats(pool, 48, min(96, model.config.context_length), begin=begin, generator=generator)
    patterns = _patterns(model, drawn.ids.to(next(model.parameters()).device))
    time = drawn.ids.shape[1]
    same = (drawn.ids[:, :, None] == drawn.ids[:, None, :]) & torch.ones(time, time).tril(-1).bool()
    targets = torch.stack([same, drawn.matches(int(begin is not None))], dim=1)
    own, shuffled = _masses(patterns, targets, drawn.repeated(), generator)
    count = drawn.repeated().sum()
    return own / count, shuffled / count


def _masses(patterns: Tensor, targets: Tensor, queries: Tensor, generator: torch.Generator) -> Scores:
    """Attention on targets, summed over queries: (L, N, H, T, T), (N, K, T, T), (N, T) -> (L, H, K), shuffled too.

    To shuffle the attention of a row among the tokens it may see is to shuffle the row's targets.
    """
    chosen = targets & queries[:, None, :, None]

    def mass(where: Tensor) -> Tensor:
        return torch.einsum("lnhqs,nkqs->lhk", patterns, where.to(patterns.dtype))

    time = patterns.shape[-1]
    seen = torch.ones(time, time).tril().bool()
    draws = []
    for _ in range(_SHUFFLES):
        # What a query may see comes first in the sorted order, in random order.
        order = torch.where(seen, torch.rand(time, time, generator=generator), 2.0).argsort(dim=-1)
        draws.append(mass(chosen.gather(-1, order.expand_as(chosen)) & seen))
    return mass(chosen), torch.stack(draws)


def _patterns(model: GPT2, ids: Tensor) -> Tensor:
    """(L, N, H, T, T) on the CPU."""
    names = [long_name(("pattern", layer)) for layer in range(model.config.num_layers)]
    _, cache = forward(model, ids, keep=names.__contains__)
    return torch.stack([cache.view(name).float().cpu() for name in names])
