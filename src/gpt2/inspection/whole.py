"""The whole model, from which effects are measured: what one measurement finds out about it serves the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpt2.inspection.cache import Edit, forward, tapped
from gpt2.inspection.interventions import Intervention, edits_of
from gpt2.inspection.names import long_name
from gpt2.inspection.partial import from_layer
from gpt2.inspection.reference import Texts, batches, documents
from gpt2.inspection.run import Run, run
from gpt2.model import GPT2, IGNORED
from gpt2.tokenizer import Tokenizer

_BYTES = 256e6
"""Streams of more bytes are not kept."""


@dataclass(frozen=True)
class _Batch:
    ids: Tensor
    """(B, T) long: without the last token of each document."""
    targets: Tensor
    """(B, T) long, IGNORED where nothing stands."""
    losses: Tensor
    """(B,) nats of the whole model."""
    streams: list[Tensor] = field(default_factory=list)
    """The residual stream before each layer and after the last, (B, T, D); none if they are too large."""


class Whole:
    """A model with its losses on documents, its stream before each layer there, and how it goes on with the last text.

    A measurement without some parts begins where the first of them is: below, the same operations give the same bits.

    Args:
        model: in evaluation; its weights must not change afterwards.
        tokenizer: its own.
        texts: documents for the loss; None: bundled stories.
        count: how many of them.

    Raises:
        DataError: no text has two tokens.
    """

    @torch.no_grad()
    def __init__(self, model: GPT2, tokenizer: Tokenizer, texts: Texts | None = None, *, count: int = 16) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._text: tuple[str, int, Run, str] | None = None
        rows = documents(model, tokenizer, texts, count=count)[:count]
        layers, size = model.config.num_layers, sum(map(len, rows)) * model.config.d_model * 4
        names = [long_name(("resid_pre", layer)) for layer in range(layers)] + [long_name(("resid_post", layers - 1))]
        names = names if size * len(names) <= _BYTES else []
        self._batches = []
        for ids, real in batches(rows, next(model.parameters()).device):
            targets = torch.where(real[:, 1:], ids[:, 1:], IGNORED)
            logits, cache = forward(model, ids[:, :-1], keep=set(names).__contains__)
            streams = [cache.view(name) for name in names]
            self._batches.append(_Batch(ids[:, :-1], targets, self._losses(logits, targets), streams))
        self.losses = torch.cat([batch.losses for batch in self._batches])
        """(documents,) summed nats."""
        self.counts = torch.cat([(batch.targets != IGNORED).sum(dim=1).cpu() for batch in self._batches])
        """(documents,) tokens."""

    @torch.no_grad()
    def losses_without(self, do: Sequence[Intervention]) -> Tensor:
        """(documents,) summed nats under interventions."""
        if not do:
            return self.losses
        sums = []
        for batch in self._batches:
            edits = edits_of(do, self.model, self.tokenizer, batch.ids.shape[1])
            first = min(map(self._layer, edits))
            if batch.streams and first >= 0:
                hidden = from_layer(self.model, first, batch.streams[first], tapped(edits)[0])
                logits = self.model.kernels.unembed(hidden, self.model.transformer.wte.weight).float()
            else:
                logits, _ = forward(self.model, batch.ids, edits, keep=lambda name: False)
            sums.append(self._losses(logits, batch.targets))
        return torch.cat(sums)

    def reading(self, text: str, length: int) -> tuple[Run, str]:
        """The text, run, and how it goes on by at most `length` of the likeliest tokens; the last text is kept."""
        if self._text is None or self._text[:2] != (text, length):
            found = run(self.model, self.tokenizer, text)
            self._text = text, length, found, continued(found, [], length)
        return self._text[2:]

    def _layer(self, name: str) -> int:
        """In which layer a value is: -1 for the embeddings, the number of layers for the final norm."""
        scope, _, rest = name.partition(".")
        if scope == "blocks":
            return int(rest.split(".")[0])
        return self.model.config.num_layers if scope == "ln_final" else -1

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        each = self.model.kernels.cross_entropy(logits.flatten(0, 1), targets.flatten()).view(targets.shape)
        return each.double().sum(dim=1).cpu()


@torch.no_grad()
def continued(whole: Run, do: Sequence[Intervention], length: int) -> str:
    """The likeliest token again and again. Interventions know no cache, so each is a pass over all; what stands
    after the last token is not seen by it, and at one width they are bound once.
    """
    model, tokenizer, now = whole.model, whole.tokenizer, len(whole.ids)
    assert tokenizer is not None
    last = min(now + length, model.config.context_length)
    ids = torch.cat([whole.ids, whole.ids.new_zeros(last - now)])
    edits: dict[str, list[Edit]] = edits_of(do, model, tokenizer, last)
    while now < last:
        logits, _ = forward(model, ids[None], edits, keep=lambda name: False)
        ids[now] = logits[0, now - 1].argmax()
        if int(ids[now]) == tokenizer.eos_token_id:
            break
        now += 1
    return tokenizer.decode(ids[len(whole.ids) : now].tolist())
