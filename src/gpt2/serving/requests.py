"""What clients may ask for: the fields of OpenAI's completions and chat, their types and bounds."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gpt2.generation.sampling import Sampling
from gpt2.serving.api_errors import ApiError
from gpt2.serving.stream import Options

_MOST_LOGPROBS, _MOST_STOPS, _STOP_LENGTH = 20, 16, 256

Text = Annotated[str, Field(max_length=2**20)]
Ids = list[Annotated[int, Field(ge=-(2**63), lt=2**63)]]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None
    """A last chunk with the counts of tokens."""


class Sampled(BaseModel):
    """Fields that completions and chat share. `null` is the same as leaving a field out; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    model: Text | None = None
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """Extension: choose among the k likeliest; 0 and -1: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Extension: choose among tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: Annotated[float, Field(gt=0, le=5)] | None = None
    """Extension: above 1, tokens of prompt and text become less likely."""
    ignore_eos: bool | None = None
    """Extension: go on after the end-of-text token."""

    def stops(self) -> list[str]:
        """The stop strings.

        Raises:
            ApiError: too many, or one too long.
        """
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > _MOST_STOPS or any(len(text) > _STOP_LENGTH for text in given):
            raise ApiError(400, f"stop: at most {_MOST_STOPS} strings of {_STOP_LENGTH} characters", param="stop")
        return [text for text in given if text]

    def options(self, vocab_size: int, max_tokens: int, logprobs: int | None, score_prompt: bool = False) -> Options:
        """As the engine takes them.

        Raises:
            ApiError: an id of `logit_bias` that the model does not have.
        """
        bias = []
        for name, value in (self.logit_bias or {}).items():
            if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < vocab_size):
                raise ApiError(400, f"logit_bias: there is no token id {name[:20]!r}", param="logit_bias")
            bias.append((int(name), value))
        return Options(
            max_tokens,
            Sampling(
                temperature=_or(self.temperature, 1.0),
                top_p=self.top_p,
                top_k=self.top_k if self.top_k and self.top_k > 0 else None,
                min_p=self.min_p,
                repetition_penalty=_or(self.repetition_penalty, 1.0),
            ),
            _or(self.frequency_penalty, 0.0),
            _or(self.presence_penalty, 0.0),
            tuple(bias),
            logprobs,
            score_prompt,
            bool(self.ignore_eos),
        )


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    prompt: Text | list[Text] | Ids | list[Ids] | None = None
    """Text, ids, or a list of either; none: the model begins by itself."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Most new tokens, 16 by default; a continuation also ends where the context does."""
    echo: bool | None = None
    """Give the prompt back before the continuation."""
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: str | None = None


class Message(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Annotated[str, Field(max_length=64)]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = None


def prompts_of(given: Any) -> Sequence[str | list[int]]:
    """The prompts of a completion request: texts, or lists of ids."""
    if given is None:
        return [""]
    if isinstance(given, str):
        return [given]
    if not given or all(isinstance(item, int) for item in given):
        return [given]
    return given


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
