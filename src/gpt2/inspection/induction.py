"""Induction heads: they find the earlier occurrence of a token and look at what followed it (Olsson et al., 2022).

Texts that repeat themselves at a fixed distance are solved by looking a fixed number of tokens back, without any
matching. Here the length of the repeated stretch, where it begins, and the gap before it comes again are all drawn
anew for each text, and the same patterns scored on other texts' repeats tell what position alone would reach.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.cache import forward
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.reference import documents
from gpt2.inspection.result import Check, Result
from gpt2.inspection.weights import log_softmax
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

LONGEST = 96


@dataclass(frozen=True)
class Repeats:
    """Random texts in which a stretch comes twice. N texts of T tokens."""

    ids: Tensor
    """(N, T) long."""
    first: Tensor
    """(N,) long: where the stretch begins."""
    second: Tensor
    """(N,) long: where it begins again."""
    length: Tensor
    """(N,) long."""

    def repeated(self) -> Tensor:
        """(N, T) bool: the second occurrence."""
        place = torch.arange(self.ids.shape[1])
        return (place >= self.second[:, None]) & (place < (self.second + self.length)[:, None])

    def matches(self, start: int = 0) -> Tensor:
        """(N, T, T) bool: key k follows an earlier occurrence of the query's token, by identity."""
        ids, time = self.ids, self.ids.shape[1]
        same = ids[:, :, None] == ids[:, None, :]  # query, earlier token
        after = torch.zeros_like(same)
        after[:, :, 1:] = same[:, :, :-1]
        after[:, :, : start + 1] = False
        return after & torch.ones(time, time).tril().bool()  # k - 1 < q


def repeats(
    vocabulary: Sequence[int] | int, count: int = 64, time: int = 64, *, begin: int | None = None,
    generator: torch.Generator | None = None,
) -> Repeats:  # fmt: skip
    """Draw texts that repeat a stretch; its length, place and distance are random in each.

    Args:
        vocabulary: ids to draw from, or how many there are.
        count: N, texts.
        time: T, tokens of each, 8 or more.
        begin: id to put first; it is in no stretch.
        generator: of the draws; None: seed 0.

    Raises:
        ConfigError: fewer than 8 tokens.
    """
    if time < 8:
        raise ConfigError(f"a text with a repeated stretch needs 8 tokens or more, got {time}")
    generator = generator or torch.Generator().manual_seed(0)
    pool = torch.tensor(range(vocabulary) if isinstance(vocabulary, int) else list(vocabulary))
    head = int(begin is not None)

    def draw(low: int, high: Tensor) -> Tensor:
        return low + (torch.rand(count, generator=generator) * (high - low + 1)).long().clamp(max=high - low)

    ids = pool[torch.randint(len(pool), (count, time), generator=generator)]
    if begin is not None:
        ids[:, 0] = begin
    room = torch.full((count,), time - head)
    length = draw(3, room // 2)
    first = draw(0, room - 2 * length) + head
    second = first + length + draw(0, time - first - 2 * length)
    place = torch.arange(time)
    inside = (place >= second[:, None]) & (place < (second + length)[:, None])
    source = (place - (second - first)[:, None]).clamp(min=0)
    return Repeats(torch.where(inside, ids.gather(1, source), ids), first, second, length)


@dataclass(frozen=True)
class Induction(Result):
    """How far each head looks at what followed the same token before. L layers, H heads."""

    kind = "induction"
    scores: Tensor
    """(L, H): attention to what followed an earlier occurrence, mean over the second stretches."""
    by_position: Tensor
    """(L, H): the same patterns scored on other texts' repeats: what position alone would reach."""
    chance: float
    """The score of a head that looks everywhere alike."""
    loss_first: float
    """Nats per token on a stretch when it is new."""
    loss_second: float
    """Nats per token when it comes again (from its second token on, the first that can be foreseen)."""
    num_texts: int
    check: Check | None = None

    @property
    def best(self) -> tuple[int, int]:
        """Layer and number of the head with the highest score."""
        layer, head = divmod(int(self.scores.argmax()), self.scores.shape[1])
        return layer, head

    @property
    def title(self) -> str:
        return "Induction: looking at what followed last time"

    @property
    def summary(self) -> str:
        layer, head = self.best
        return (
            f"Head {layer}.{head} scores highest, {float(self.scores[layer, head]):.2f} (chance {self.chance:.2f}, "
            f"by position alone {float(self.by_position[layer, head]):.2f}); the loss goes from "
            f"{self.loss_first:.2f} to {self.loss_second:.2f} nats per token when a random stretch comes again."
        )

    @property
    def how_to_read(self) -> str:
        return (
            f"Share of attention on the token that followed the same token before, in {self.num_texts} random texts. "
            f"Chance is {self.chance:.2f}; in brackets what position alone would reach."
        )

    def rows(self) -> list[list[str]]:
        cells = [(i, j) for i in range(self.scores.shape[0]) for j in range(self.scores.shape[1])]
        cells.sort(key=lambda cell: -float(self.scores[cell]))
        lines = [[f"{i}.{j}", f"{self.scores[i, j]:.3f}", f"{self.by_position[i, j]:.3f}"] for i, j in cells]
        return [["head", "score", "by position"], *lines, ["chance", f"{self.chance:.3f}", ""]]

    def _size(self) -> tuple[float, float]:
        layers, heads = self.scores.shape
        return max(5.4, 0.62 * heads + 1.5), 0.44 * layers + 0.7

    def _draw(self, canvas: Canvas) -> None:
        layers, heads = self.scores.shape
        scores, other = self.scores.tolist(), self.by_position.tolist()
        cells = [[f"{scores[i][j]:.2f}\n({other[i][j]:.2f})" for j in range(heads)] for i in range(layers)]
        axes = canvas.axes()
        canvas.matrix(
            axes, self.scores, top=1.0, rows=[str(i) for i in range(layers)], columns=[str(h) for h in range(heads)],
            cells=cells if heads <= 16 else None, bar="share of attention",
        )  # fmt: skip
        axes.set(xlabel="head", ylabel="layer")


@torch.no_grad()
def induction(
    model: GPT2, tokenizer: Tokenizer | None = None, *, ids: Sequence[int] | None = None, count: int = 64,
    time: int | None = None, seed: int = 0,
) -> Induction:  # fmt: skip
    """Score every head on random texts that repeat a stretch.

    Args:
        model: any.
        tokenizer: its texts begin with `<|endoftext|>`, and their tokens are drawn from the more frequent half of those
            in the bundled stories: rows of rare tokens are hardly trained.
        ids: draw from these instead; without a tokenizer, None means the whole vocabulary.
        count: texts.
        time: tokens of each; None: 96, or the context if that is shorter.
        seed: of the draws.

    Raises:
        ConfigError: a context under 8 tokens.
    """
    time = min(time or LONGEST, model.config.context_length)
    pool: Sequence[int] | int = ids or (frequent_ids(model, tokenizer) if tokenizer else model.config.vocab_size)
    begin = tokenizer.eos_token_id if tokenizer else None
    drawn = repeats(pool, count, time, begin=begin, generator=torch.Generator().manual_seed(seed))
    device, keep = next(model.parameters()).device, lambda name: name.endswith("hook_pattern")
    logits, cache = forward(model, drawn.ids.to(device), keep=keep)
    patterns = torch.stack([cache.view(("pattern", layer)).cpu() for layer in range(model.config.num_layers)])
    matches, second = drawn.matches(int(begin is not None)), drawn.repeated()
    uniform = torch.ones(time, time).tril() / torch.arange(1, time + 1)[:, None]
    chance = float(score(uniform.expand(1, count, 1, time, time), matches, second)[0, 0])
    expected = matches.sum(-1) / torch.arange(1, time + 1)
    others = torch.stack([
        score(patterns, matches.roll(shift, 0), second.roll(shift, 0)) for shift in range(1, min(9, count))
    ]).mean(dim=0) if count > 1 else torch.full(patterns.shape[:1] + patterns.shape[2:3], torch.nan)  # fmt: skip
    losses = -log_softmax(logits[:, :-1].cpu()).gather(-1, drawn.ids[:, 1:, None])[..., 0]
    losses = torch.cat([torch.zeros(count, 1), losses], dim=1)
    return Induction(
        score(patterns, matches, second), others, chance,
        float(losses[_foreseeable(drawn.first, drawn.length, time)].mean()),
        float(losses[_foreseeable(drawn.second, drawn.length, time)].mean()), count,
        Check("scoring a head that looks everywhere alike gives the chance worked out by counting",
              abs(chance - float(expected[second].mean()))),
    )  # fmt: skip


def score(patterns: Tensor, matches: Tensor, queries: Tensor) -> Tensor:
    """Attention on matching keys, mean over chosen queries: (L, N, H, T, T), (N, T, T), (N, T) -> (L, H)."""
    mass = (patterns * matches[None, :, None]).sum(dim=-1)  # (L, N, H, T)
    weight = queries[None, :, None].float()
    return (mass * weight).sum(dim=(1, 3)) / weight.sum()


def frequent_ids(model: GPT2, tokenizer: Tokenizer) -> list[int]:
    """The more frequent half of the ids that occur in the bundled stories, special ones left out."""
    counted = Counter(token for row in documents(model, tokenizer, count=256) for token in row)
    ranked = [token for token, _ in counted.most_common() if not tokenizer.is_special(token)]
    return ranked[: max(2, len(ranked) // 2)]


def _foreseeable(start: Tensor, length: Tensor, time: int) -> Tensor:
    """(N, T) bool: a stretch without its first token."""
    place = torch.arange(time)
    return (place > start[:, None]) & (place < (start + length)[:, None])
