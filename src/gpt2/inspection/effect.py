"""What follows from taking parts out: the next tokens, a continuation, and the loss on real text, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.inspection.cache import Edit, forward
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.intervals import interval
from gpt2.inspection.interventions import Intervention, edits_of
from gpt2.inspection.reference import Texts, batches, documents
from gpt2.inspection.result import Check, Result
from gpt2.inspection.run import Run, run
from gpt2.inspection.tokens import shorten, token_text
from gpt2.inspection.weights import log_softmax
from gpt2.model import GPT2, IGNORED
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True)
class Effect(Result):
    """A text with and without interventions. k tokens."""

    kind = "effect"
    of: str
    parts: list[str]
    """What was done, in words."""
    tokens: list[str]
    """The likeliest before and after, the likeliest before first."""
    ids: Tensor
    """(k,) long."""
    before: Tensor
    """(k,) probabilities of the next token."""
    after: Tensor
    kl: float
    """Nats: KL divergence of the next token's distribution after from that before."""
    continuation_before: str
    """Taking the likeliest token each time."""
    continuation_after: str
    loss_before: float
    """Nats per token on real text."""
    loss_after: float
    low: float
    """Of the change of the loss: a 95 % interval over documents."""
    high: float
    num_documents: int
    num_tokens: int
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"What changes in {self.of}"

    @property
    def summary(self) -> str:
        if not self.parts:
            return f"Nothing is taken out: the loss is {self.loss_before:.3f} nats per token."
        first, then = self.tokens[int(self.before.argmax())], self.tokens[int(self.after.argmax())]
        return (
            f"The likeliest next token {f'stays ‘{first}’' if first == then else f'was ‘{first}’ and is ‘{then}’'}; "
            f"the loss on {self.num_documents} documents changes by {self.loss_after - self.loss_before:+.3f} "
            f"({self.low:+.3f} to {self.high:+.3f}) from {self.loss_before:.3f} nats per token."
        )

    @property
    def how_to_read(self) -> str:
        done = [*self.parts[:4], *([f"{len(self.parts) - 4} more"] if len(self.parts) > 4 else [])]
        return f"Probability of the next token: grey by the whole model, blue with {', '.join(done) or 'no change'}."

    def rows(self) -> list[list[str]]:
        pairs = zip(self.tokens, self.before.tolist(), self.after.tolist(), strict=True)
        return [["token", "before", "after"], *[[token, f"{b:.2%}", f"{a:.2%}"] for token, b, a in pairs]]

    def _size(self) -> tuple[float, float]:
        return 6.4, 0.34 * len(self.tokens) + 0.6

    def _draw(self, canvas: Canvas) -> None:
        axes, theme = canvas.axes(), canvas.theme
        rows = range(len(self.tokens))
        axes.barh([i - 0.19 for i in rows], self.before.tolist(), height=0.36, color=theme.muted, label="whole")
        axes.barh([i + 0.19 for i in rows], self.after.tolist(), height=0.36, color=theme.accent, label="changed")
        axes.set_yticks(rows, [shorten(token, 16) for token in self.tokens])
        axes.set(xlabel="probability of the next token", ylim=(len(self.tokens) - 0.5, -0.5))
        axes.legend(loc="lower right")
        axes.spines["left"].set_visible(False)


@torch.no_grad()
def effect(
    model: GPT2, tokenizer: Tokenizer, text: str, do: Sequence[Intervention], texts: Texts | None = None, *,
    k: int = 10, length: int = 24, count: int = 16,
) -> Effect:  # fmt: skip
    """Compare a text with and without interventions.

    Args:
        model: any.
        tokenizer: its own.
        text: what is continued.
        do: interventions; those at one position count in `text` alone, not in the loss.
        texts: documents for the loss, best held out; None: bundled stories.
        k: likeliest tokens to name, of each.
        length: most tokens of the continuations.
        count: how many of the documents.

    Raises:
        ConfigError: the text does not fit the context, or an intervention the model.
    """
    whole, changed = run(model, tokenizer, text), run(model, tokenizer, text, do=do)
    before, after = log_softmax(whole.logits[-1]), log_softmax(changed.logits[-1])
    k = min(k, len(before))
    ids = torch.tensor(list(dict.fromkeys([*before.topk(k).indices.tolist(), *after.topk(k // 2).indices.tolist()])))
    everywhere = [item for item in do if item.site.position is None]
    rows = documents(model, tokenizer, texts, count=count)[:count]
    first, counts = _losses(model, tokenizer, rows, [])
    second = _losses(model, tokenizer, rows, everywhere)[0] if everywhere else first
    low, high = interval(second - first, counts)
    goes_on = _continued(whole, [], length)
    total = float(counts.sum())
    return Effect(
        of=whole.label,
        parts=[item.description for item in do],
        tokens=[token_text(tokenizer, i) for i in ids.tolist()],
        ids=ids,
        before=before.exp()[ids],
        after=after.exp()[ids],
        kl=float((before.exp() * (before - after)).sum().clamp(min=0.0)),
        continuation_before=goes_on,
        continuation_after=_continued(whole, do, length) if do else goes_on,
        loss_before=float(first.sum()) / total,
        loss_after=float(second.sum()) / total,
        low=float(low),
        high=float(high),
        num_documents=len(rows),
        num_tokens=int(total),
        check=_unchanged(whole, do),
    )


def _unchanged(whole: Run, do: Sequence[Intervention]) -> Check:
    """The same values put in their own places, by the way that the interventions go."""
    edits: dict[str, list[Edit]] = {item.site.name: [torch.clone] for item in do}
    logits, _ = forward(whole.model, whole.ids[None], edits, keep=lambda name: False)
    same = torch.equal(logits[0], whole.logits)
    return Check("with every switch on, the logits are the model's, bit for bit", 0.0 if same else 1.0, 0.0)


def _losses(
    model: GPT2, tokenizer: Tokenizer, rows: list[list[int]], do: Sequence[Intervention]
) -> tuple[Tensor, Tensor]:
    """Summed loss in nats and tokens of each document (documents,)."""
    sums, counts = [], []
    for ids, real in batches(rows, next(model.parameters()).device):
        edits = edits_of(do, model, tokenizer, ids.shape[1] - 1)
        logits, _ = forward(model, ids[:, :-1], edits, keep=lambda name: False)
        targets = torch.where(real[:, 1:], ids[:, 1:], IGNORED)
        kept = model.kernels.cross_entropy(logits.flatten(0, 1), targets.flatten()).view(targets.shape)
        sums.append(kept.double().sum(dim=1).cpu())
        counts.append(real[:, 1:].sum(dim=1).cpu())
    return torch.cat(sums), torch.cat(counts)


def _continued(whole: Run, do: Sequence[Intervention], length: int) -> str:
    """The likeliest token again and again. Interventions know no cache, so each is a pass over all; what stands
    after the last token is not seen by it, and at one width they are bound once.
    """
    model, tokenizer, now = whole.model, whole.tokenizer, len(whole.ids)
    assert tokenizer is not None
    last = min(now + length, model.config.context_length)
    ids = torch.cat([whole.ids, whole.ids.new_zeros(last - now)])
    edits = edits_of(do, model, tokenizer, last)
    while now < last:
        logits, _ = forward(model, ids[None], edits, keep=lambda name: False)
        ids[now] = logits[0, now - 1].argmax()
        if int(ids[now]) == tokenizer.eos_token_id:
            break
        now += 1
    return tokenizer.decode(ids[len(whole.ids) : now].tolist())
