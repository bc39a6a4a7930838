"""Text in, text out: prompts of any lengths, streamed, with stop strings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2.generation.generate import stream_ids
from gpt2.generation.sampling import Sampling


@dataclass
class Continuation:
    """What followed one prompt."""

    prompt: str
    text: str = ""
    """The continuation alone, without the stop string."""
    ids: list[int] = field(default_factory=list)
    """Its ids, `<|endoftext|>` included if it came to that."""
    finish_reason: str = "length"
    """"eos", "stop" or "length"."""


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Ids of a prompt as a document begins in training: `<|endoftext|>`, then the text."""
    return [tokenizer.eos_token_id, *tokenizer.encode(prompt)]


def generate_text(model: Any, tokenizer: Any, prompts: Sequence[str], **options: Any) -> list[Continuation]:
    """Continuations of all prompts; arguments as in `stream_text`."""
    results = [Continuation(prompt) for prompt in prompts]
    for _ in stream_text(model, tokenizer, prompts, results=results, **options):
        pass
    return results


def stream_text(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    seed: int | None = None,
    use_cache: bool = True,
    results: list[Continuation] | None = None,
) -> Iterator[tuple[int, str]]:
    """Continue prompts together and give their text as it comes.

    Args:
        model: a language model such as `GPT2`.
        tokenizer: its tokenizer.
        prompts: beginnings; "" lets the model begin by itself.
        max_new_tokens: most new tokens per prompt.
        sampling: how tokens are chosen; None: the model's own defaults.
        stop: a continuation ends before the first of these strings in it.
        seed: of the draws; None: from PyTorch's default generator.
        use_cache: False recomputes the past at each step.
        results: filled in as the text grows, one per prompt.

    Yields:
        (prompt number, new text): whole characters only, and nothing that may yet become a stop string.
    """
    sampling = sampling or Sampling.from_options(getattr(model, "generation_defaults", {}), {})
    results = results if results is not None else [Continuation(prompt) for prompt in prompts]
    rows = [_Row(tokenizer, stop, result) for result in results]
    steps = stream_ids(
        model,
        [prompt_ids(tokenizer, prompt) for prompt in prompts],
        max_new_tokens,
        sampling,
        seed=seed,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=use_cache,
    )
    for step in steps:
        for number, token in step:
            text = rows[number].push(token, tokenizer.eos_token_id)
            if text:
                yield number, text
        if all(row.done for row in rows):
            break
    for number, row in enumerate(rows):
        text = row.finish()
        if text:
            yield number, text


class _Row:
    """One continuation on its way: decoder, text held back, stop strings."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], result: Continuation) -> None:
        self.decoder, self.result = tokenizer.stream_decoder(), result
        self.stop = [string for string in stop if string]
        self.held, self.done = "", False

    def push(self, token: int, eos: int) -> str:
        if self.done:
            return ""
        self.result.ids.append(token)
        if token == eos:
            self.result.finish_reason, self.done = "eos", True
            return self._give(self.held + self.decoder.flush())
        self.held += self.decoder.push(token)
        cut = min((at for at in (self.held.find(s) for s in self.stop) if at >= 0), default=-1)
        if cut >= 0:
            self.result.finish_reason, self.done = "stop", True
            return self._give(self.held[:cut])
        safe = len(self.held) - possible_stop(self.held, self.stop)
        text, rest = self.held[:safe], self.held[safe:]
        return self._give(text, rest)

    def finish(self) -> str:
        if self.done:
            return ""
        self.done = True
        return self._give(self.held + self.decoder.flush())

    def _give(self, text: str, rest: str = "") -> str:
        self.held = rest
        self.result.text += text
        return text


def possible_stop(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the beginning of a stop string."""
    longest = max((len(string) for string in stop), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return length
    return 0
