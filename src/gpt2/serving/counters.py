"""What the server counts, in the text form that Prometheus reads (exposition format 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Histogram:
    """How often a duration fell below each of some bounds, in seconds."""

    def __init__(self) -> None:
        self._counts, self._sum = [0] * (len(_SECONDS) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        """Samples, cumulative as the format wants them."""
        total, lines = 0, []
        for bound, count in zip((*_SECONDS, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Counters:
    """All figures of a server. Each is changed by one thread and read by any."""

    def __init__(self) -> None:
        self.steps = self.prompt_tokens = self.reused_tokens = self.new_tokens = 0
        self.finished: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.overrun = 0
        """Most tokens that a stream got after its client's leaving was known."""
        self.first_token, self.request = Histogram(), Histogram()

    def text(self, gauges: Mapping[str, tuple[float, str]]) -> str:
        """All figures.

        Args:
            gauges: name -> (value now, what it is).
        """
        counts = {
            "steps_total": (self.steps, "Steps of the model."),
            "prompt_tokens_total": (self.prompt_tokens, "Prompt tokens computed."),
            "prompt_tokens_reused_total": (self.reused_tokens, "Prompt tokens taken from an earlier request's cache."),
            "generated_tokens_total": (self.new_tokens, "Tokens generated."),
        }
        gauges = {
            **gauges,
            "tokens_after_cancel_max": (self.overrun, "Most tokens computed for a client that had left."),
        }
        parts = [_family(name, "counter", text, [f"gpt2_{name} {value}"]) for name, (value, text) in counts.items()]
        parts += [_family(name, "gauge", text, [f"gpt2_{name} {value:g}"]) for name, (value, text) in gauges.items()]
        ends = [f'gpt2_streams_total{{finish="{name}"}} {n}' for name, n in sorted(self.finished.items())]
        parts.append(_family("streams_total", "counter", "Streams by how they ended.", ends))
        answers = [f'gpt2_responses_total{{status="{status}"}} {n}' for status, n in sorted(self.answers.items())]
        parts.append(_family("responses_total", "counter", "Responses by status.", answers))
        for name, what, text in (
            ("first_token_seconds", self.first_token, "From a request to its first token."),
            ("request_seconds", self.request, "From a request to its last token."),
        ):
            parts.append(_family(name, "histogram", text, what.lines(f"gpt2_{name}")))
        return "\n".join(parts) + "\n"


def _family(name: str, kind: str, text: str, samples: list[str]) -> str:
    return "\n".join([f"# HELP gpt2_{name} {text}", f"# TYPE gpt2_{name} {kind}", *samples])
