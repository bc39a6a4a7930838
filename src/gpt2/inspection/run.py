"""`run`: one text through the model, with everything that happened on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpt2.errors import ConfigError, DataError
from gpt2.inspection.cache import Cache, Edit, forward
from gpt2.inspection.interventions import Intervention, edits_of
from gpt2.inspection.names import Key, long_name
from gpt2.inspection.tokens import quoted, token_texts
from gpt2.inspection.weights import head_output, log_softmax
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt2.inspection.attribution import Attribution
    from gpt2.inspection.checks import Checks
    from gpt2.inspection.head_steps import HeadSteps
    from gpt2.inspection.lens import LogitLens
    from gpt2.inspection.odds import Odds
    from gpt2.inspection.residual import ResidualNorms
    from gpt2.inspection.surprise import Surprise


@dataclass(frozen=True)
class Run:
    """A forward pass of one text, open to be looked at. T tokens, V vocabulary."""

    model: GPT2
    tokenizer: Tokenizer | None
    ids: Tensor
    """(T,) long."""
    logits: Tensor
    """(T, V) float: logits after each token."""
    cache: Cache
    """Every named value, with a batch of one in front, as in TransformerLens."""
    interventions: tuple[Intervention, ...] = ()
    edits: dict[str, list[Edit]] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: Key) -> Tensor:
        """A copy of a value: `run["blocks.2.attn.hook_pattern"]`, `run["pattern", 2]`, `run["result", 2]`."""
        name = long_name(key)
        if name.endswith("attn.hook_result"):
            return self.head_results(int(name.split(".")[1]))
        return self.cache[name]

    def __repr__(self) -> str:
        done = "".join(f", {item.description}" for item in self.interventions)
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"Run({self.label}, {len(self.ids)} tokens{loss}{done})"

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens as they are shown: `␣dog`, `⏎`."""
        return token_texts(self.tokenizer, self.ids.tolist())

    @property
    def label(self) -> str:
        """The text in a few words."""
        begins = self.tokenizer is not None and int(self.ids[0]) == self.tokenizer.eos_token_id
        return quoted(self.tokens[1:] if begins and len(self.tokens) > 1 else self.tokens)

    @cached_property
    def losses(self) -> Tensor:
        """(T - 1,) nats: what each token after the first cost."""
        chosen = self.ids[1:, None]
        return -log_softmax(self.logits[:-1]).gather(-1, chosen)[:, 0]

    @property
    def loss(self) -> float | None:
        """Mean of `losses`; None for a single token."""
        return float(self.losses.mean()) if len(self.ids) > 1 else None

    @property
    def meta(self) -> dict[str, Any]:
        """What was fixed: conventions, device, type, interventions."""
        return {
            "begins_with_end_of_text": self.tokenizer is not None and int(self.ids[0]) == self.tokenizer.eos_token_id,
            "weights": "as stored: no norm is folded into them, nothing is centred",
            "logarithms": "natural",
            "positions": "from 0",
            "device": str(self.logits.device),
            "dtype": str(self.model.compute_dtype or self.model.transformer.wte.weight.dtype),
            "interventions": [item.description for item in self.interventions],
        }

    def head_results(self, layer: int) -> Tensor:
        """(1, T, H, D): what each head adds to the stream; with the bias, their sum is `attn_out`."""
        z = self.cache.view(("z", layer))
        return torch.einsum("bthd,hdm->bthm", z, head_output(self.model, layer).to(z.dtype))

    @property
    def checks(self) -> "Checks":
        """The identities that prove what this run shows; see `gpt2.inspection.checks`."""
        from gpt2.inspection.checks import checks_of

        return checks_of(self)

    def attention(self, layer: int | None = None, head: int | None = None, *, hide_first: bool = False) -> Any:
        """Who looks at whom: an `Attention` of one head, or an `AttentionAtlas` of all.

        Args:
            layer: from 0; None: all heads of all layers.
            head: from 0; None: the layer's first.
            hide_first: leave the first token, which many heads use as a resting place, out of the colours.

        Raises:
            ConfigError: there is no such head, or a head without its layer.
        """
        from gpt2.inspection.attention import attention_atlas, attention_of

        if layer is None and head is not None:
            raise ConfigError(f"head {head} of which layer? Name the layer, too, or neither for all heads")
        if layer is None:
            return attention_atlas(self, hide_first=hide_first)
        return attention_of(self, layer, 0 if head is None else head, hide_first=hide_first)

    def head(self, layer: int, head: int, query: int = -1) -> "HeadSteps":
        """One head, one query, step by step: q, k, scores, pattern, v, z."""
        from gpt2.inspection.head_steps import head_steps

        return head_steps(self, layer, head, query)

    def logit_lens(self, k: int = 5) -> "LogitLens":
        """What the model would say if it ended after each layer; the k likeliest tokens."""
        from gpt2.inspection.lens import logit_lens

        return logit_lens(self, k)

    def dla(
        self, target: str | int | None = None, against: str | int | None = None, *, unit: str = "component",
        position: int = -1,
    ) -> "Attribution":  # fmt: skip
        """Direct logit attribution: what each component, head or neuron adds to a token's logit."""
        from gpt2.inspection.attribution import attribution

        return attribution(self, target, against, unit=unit, position=position)

    def surprise(self, k: int = 5) -> "Surprise":
        """What each token cost, and what the model would have liked better."""
        from gpt2.inspection.surprise import surprise

        return surprise(self, k)

    def residual_norms(self) -> "ResidualNorms":
        """How long the residual stream is, and how much each part adds."""
        from gpt2.inspection.residual import residual_norms

        return residual_norms(self)

    def odds(self, position: int = -1, temperatures: Sequence[float] = (0.5, 1.0, 1.5), k: int = 12) -> "Odds":
        """The distribution over the next token, at several temperatures."""
        from gpt2.inspection.odds import odds

        return odds(self, position, temperatures, k)


def run(
    model: GPT2, tokenizer: Tokenizer | None, text: str | Sequence[int] | Tensor, *,
    do: Sequence[Intervention] | Intervention = (), begin: bool = True,
) -> Run:  # fmt: skip
    """Send a text through the model and keep every named value.

    Args:
        model: any `GPT2`; it is run in evaluation mode and left as it was.
        tokenizer: None: `text` is ids, and tokens are shown as ids.
        text: a string, ids, or a (T,) or (1, T) tensor of ids.
        do: interventions, in order.
        begin: put `<|endoftext|>` before a string, as every document begins in training. Ids are taken as given.

    Raises:
        ConfigError: the text does not fit the context, or an intervention the model.
        DataError: the text is empty.
    """
    ids = _ids(model, tokenizer, text, begin)
    interventions = (do,) if isinstance(do, Intervention) else tuple(do)
    edits = edits_of(interventions, model, tokenizer, len(ids))
    logits, cache = forward(model, ids[None], edits)
    return Run(model, tokenizer, ids, logits[0], cache, interventions, edits)


def _ids(model: GPT2, tokenizer: Tokenizer | None, text: str | Sequence[int] | Tensor, begin: bool) -> Tensor:
    if isinstance(text, str):
        if tokenizer is None:
            raise ConfigError("text needs a tokenizer; without one give ids")
        listed = [tokenizer.eos_token_id] * begin + tokenizer.encode(text)
    else:
        listed = text.flatten().tolist() if isinstance(text, Tensor) else [int(token) for token in text]
    longest, size = model.config.context_length, model.config.vocab_size
    if not listed:
        raise DataError("there is nothing to run: the text is empty")
    if len(listed) > longest:
        raise ConfigError(f"the text has {len(listed):,} tokens, the model's context holds {longest:,}; shorten it")
    if not 0 <= min(listed) <= max(listed) < size:
        raise ConfigError(f"ids must lie between 0 and {size - 1:,}, got {min(listed):,} to {max(listed):,}")
    return torch.tensor(listed, device=next(model.parameters()).device)
