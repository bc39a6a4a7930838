"""The embedding: which tokens lie near each other, a map of them, and how alike positions are."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.reference import Texts, documents
from gpt2.inspection.result import Check, Result, difference
from gpt2.inspection.tokens import shorten, single_token, token_text
from gpt2.inspection.weights import unembedding
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True)
class Neighbours(Result):
    """Tokens whose embeddings point the same way."""

    kind = "neighbours"
    token: str
    token_id: int
    tokens: list[str]
    ids: Tensor
    """(k,) long."""
    cosines: Tensor
    """(k,) in [-1, 1]."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"Nearest to ‘{self.token}’ in the embedding"

    @property
    def summary(self) -> str:
        return f"The nearest token is ‘{self.tokens[0]}’ with a cosine of {float(self.cosines[0]):.2f}."

    @property
    def how_to_read(self) -> str:
        return "Cosine of the angle between the embeddings: 1 is the same direction, 0 nothing in common."

    def rows(self) -> list[list[str]]:
        pairs = zip(self.tokens, self.cosines.tolist(), strict=True)
        return [["token", "cosine"], *[[token, f"{cosine:.3f}"] for token, cosine in pairs]]

    def _size(self) -> tuple[float, float]:
        return 5.6, 0.24 * len(self.tokens) + 0.6

    def _draw(self, canvas: Canvas) -> None:
        axes, values = canvas.axes(), self.cosines.tolist()
        canvas.bars(axes, [shorten(token, 18) for token in self.tokens], values, [f"{v:.2f}" for v in values])
        axes.set_xlabel("cosine")


@dataclass(frozen=True)
class EmbeddingMap(Result):
    """Frequent tokens on the two directions in which their embeddings differ most (Pearson, 1901). N tokens."""

    kind = "embedding_map"
    tokens: list[str]
    ids: Tensor
    """(N,) long, most frequent first."""
    places: Tensor
    """(N, 2)."""
    shares: Tensor
    """(2,): of the variance, that each direction shows."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"{len(self.tokens)} frequent tokens in the embedding"

    @property
    def summary(self) -> str:
        return (
            f"The two directions shown hold {float(self.shares.sum()):.0%} of the variance; "
            f"what lies near here may be far apart in the others."
        )

    @property
    def how_to_read(self) -> str:
        return f"Each dot is a token; those with room have their name. {self.summary}"

    def rows(self) -> list[list[str]]:
        pairs = zip(self.tokens, self.places.tolist(), strict=True)
        return [["token", "first", "second"], *[[token, f"{x:.3f}", f"{y:.3f}"] for token, (x, y) in pairs]]

    def _size(self) -> tuple[float, float]:
        return 7.5, 5.6

    def _draw(self, canvas: Canvas) -> None:
        axes, theme = canvas.axes(), canvas.theme
        x, y = self.places.T.tolist()
        axes.scatter(x, y, s=7, color=theme.accent, linewidths=0)
        axes.margins(0.06)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        letter, line = (right - left) * 0.0105, (top - bottom) * 0.026
        taken = [(a - letter / 2, a + letter / 2, b - line / 3, b + line / 3) for a, b in zip(x, y, strict=True)]
        for i, token in enumerate(self.tokens):  # the most frequent get their names first
            name = shorten(token, 12)
            others = taken[:i] + taken[i + 1 :]
            near, far = letter * 0.7, letter * (1.2 + len(name))
            for start, end, side in ((x[i] + near, x[i] + far, "left"), (x[i] - far, x[i] - near, "right")):
                low, high = y[i] - line / 2, y[i] + line / 2
                clear = all(end < a or start > b or high < c or low > d for a, b, c, d in others)
                if clear and left < start and end < right:
                    axes.text(x[i] + (near if side == "left" else -near), y[i], name, va="center", ha=side, fontsize=7)
                    taken.append((start, end, low, high))
                    break
        first, second = self.shares.tolist()
        axes.set(xlabel=f"first direction ({first:.0%} of the variance)", ylabel=f"second ({second:.0%})")
        axes.set(xticks=[], yticks=[])


@dataclass(frozen=True)
class PositionSimilarity(Result):
    """Cosines between the position embeddings. T positions."""

    kind = "position_similarity"
    cosines: Tensor
    """(T, T)."""
    by_distance: Tensor
    """(T,): mean cosine of positions so far apart."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return "How alike positions are"

    @property
    def summary(self) -> str:
        near, far = float(self.by_distance[1]), float(self.by_distance[len(self.by_distance) // 2])
        apart = len(self.by_distance) // 2
        return f"Neighbouring positions have a mean cosine of {near:.2f}, positions {apart} apart {far:.2f}."

    @property
    def how_to_read(self) -> str:
        return "Cosine between the embeddings of two positions; blue: alike, orange: opposed."

    def rows(self) -> list[list[str]]:
        apart = [d for d in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if d < len(self.by_distance)]
        return [["positions apart", "mean cosine"], *[[str(d), f"{float(self.by_distance[d]):.3f}"] for d in apart]]

    def _size(self) -> tuple[float, float]:
        return 5.4, 4.0

    def _draw(self, canvas: Canvas) -> None:
        axes = canvas.axes()
        canvas.matrix(axes, self.cosines, signed=True, top=1.0, bar="cosine")
        axes.set(xlabel="position", ylabel="position", aspect="equal")


def neighbours(model: GPT2, tokenizer: Tokenizer | None, token: str | int, k: int = 12) -> Neighbours:
    """The k tokens whose embeddings have the largest cosine with that of `token`.

    Raises:
        ConfigError: text that is not one token, or no such id.
    """
    number = single_token(tokenizer, token, model.config.vocab_size)
    known = model.config.vocab_size if tokenizer is None else tokenizer.vocab_size  # padded rows belong to no token
    rows = unembedding(model)[:known].float()
    unit = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosines = unit @ unit[number]
    off = float(cosines[number] - 1.0)
    cosines[number] = -torch.inf
    top = cosines.topk(min(k, known - 1))
    return Neighbours(
        token_text(tokenizer, number), number, [token_text(tokenizer, i) for i in top.indices.tolist()],
        top.indices, top.values, Check("the token's cosine with itself is 1", abs(off)),
    )  # fmt: skip


def embedding_map(
    model: GPT2, tokenizer: Tokenizer | None = None, texts: Texts | None = None, count: int = 160
) -> EmbeddingMap:
    """Principal directions of the most frequent tokens that begin a word.

    Args:
        model: any.
        tokenizer: for the names, and to see which tokens begin a word; None: all tokens count.
        texts: where frequency is counted; None: bundled stories.
        count: N.

    Raises:
        ConfigError: fewer than three such tokens.
    """
    counted = Counter(token for row in documents(model, tokenizer, texts, count=256) for token in row)

    def begins_a_word(token: int) -> bool:
        raw = tokenizer.token_bytes(token) if tokenizer else b" a"
        return raw[:1] == b" " and raw[1:].isalpha()

    ids = [token for token, _ in counted.most_common() if begins_a_word(token)][:count]
    if len(ids) < 3:
        raise ConfigError(f"a map needs three words or more that are one token each, the texts have {len(ids)}")
    rows = unembedding(model)[torch.tensor(ids)].double().cpu()
    centred = rows - rows.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    axes = directions[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()  # the sign of a direction is free
    places = centred @ axes.T
    shares = lengths[:2].square() / lengths.square().sum()
    shown = places.square().sum(dim=0) / centred.square().sum()
    return EmbeddingMap(
        [token_text(tokenizer, i) for i in ids], torch.tensor(ids), places.float(), shares.float(),
        Check("the dots' spread is the stated share of the variance", difference(shown, shares)),
    )  # fmt: skip


def position_similarity(model: GPT2) -> PositionSimilarity:
    """Cosines between all position embeddings."""
    rows = model.transformer.wpe.weight.detach().float().cpu()
    unit = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosines = unit @ unit.T
    means = torch.stack([cosines.diagonal(d).mean() for d in range(len(rows))])
    off = float((cosines.diagonal() - 1).abs().max())
    return PositionSimilarity(cosines, means, Check("each position has a cosine of 1 with itself", off))
