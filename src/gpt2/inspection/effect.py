"""What follows from taking parts out: the next tokens, a continuation, and the loss on real text, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.inspection.cache import Edit, forward
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.intervals import interval
from gpt2.inspection.interventions import Intervention
from gpt2.inspection.reference import Texts
from gpt2.inspection.result import Check, Result
from gpt2.inspection.run import Run, run
from gpt2.inspection.tokens import shorten, token_text
from gpt2.inspection.weights import log_softmax
from gpt2.inspection.whole import Whole, continued
from gpt2.model import GPT2
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
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)  # above: any bar may be the longest
        axes.spines["left"].set_visible(False)


@torch.no_grad()
def effect(
    model: GPT2, tokenizer: Tokenizer, text: str, do: Sequence[Intervention], texts: Texts | None = None, *,
    k: int = 10, length: int = 24, count: int = 16, against: Whole | None = None,
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
        against: the whole model, kept from another effect; then `texts` and `count` are those that it was made with.

    Raises:
        ConfigError: the text does not fit the context, or an intervention the model.
    """
    against = against or Whole(model, tokenizer, texts, count=count)
    whole, goes_on = against.reading(text, length)
    changed = run(model, tokenizer, text, do=do)
    before, after = log_softmax(whole.logits[-1]), log_softmax(changed.logits[-1])
    k = min(k, len(before))
    ids = torch.tensor(list(dict.fromkeys([*before.topk(k).indices.tolist(), *after.topk(k // 2).indices.tolist()])))
    everywhere = [item for item in do if item.site.position is None]
    first, second, counts = against.losses, against.losses_without(everywhere), against.counts
    low, high = interval(second - first, counts)
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
        continuation_after=continued(whole, do, length) if do else goes_on,
        loss_before=float(first.sum()) / total,
        loss_after=float(second.sum()) / total,
        low=float(low),
        high=float(high),
        num_documents=len(counts),
        num_tokens=int(total),
        check=_unchanged(whole, do),
    )


def _unchanged(whole: Run, do: Sequence[Intervention]) -> Check:
    """The same values put in their own places, by the way that the interventions go."""
    edits: dict[str, list[Edit]] = {item.site.name: [torch.clone] for item in do}
    logits, _ = forward(whole.model, whole.ids[None], edits, keep=lambda name: False)
    same = torch.equal(logits[0], whole.logits)
    return Check("with every switch on, the logits are the model's, bit for bit", 0.0 if same else 1.0, 0.0)
