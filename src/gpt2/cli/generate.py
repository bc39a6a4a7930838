"""`gpt2 generate`: continue a prompt."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Generate:
    """Continue a prompt with a trained model, as the text comes."""

    model: Positional[str]
    """A run folder, any Hugging Face GPT-2 folder, hf:owner/name, a .pt beside tokenizer.json, or demo."""
    prompt: Positional[tuple[str, ...]] = ()
    """Beginnings; none: the model begins by itself."""
    max_new_tokens: int = 200
    """Most new tokens per sample; a sample ends earlier at <|endoftext|>."""
    temperature: float | None = None
    """0: always the likeliest token; above 1: more surprising. None: the model's own default, else 0.8."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Choose among tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = None
    """Above 1: tokens that have occurred become less likely."""
    num_samples: int = 1
    """Samples per prompt, all at once; sample i draws with seed + i."""
    seed: int | None = None
    """Of the draws; none: another each time."""
    stop: tuple[str, ...] = ()
    """End a sample before any of these strings."""
    json: bool = False
    """One JSON object per sample: prompt, text, ids, finish_reason."""
    weights: Literal["stored", "int8"] = "stored"
    """int8: 8 bits per weight, one factor per column; faster on CPUs. gpt2 evaluate --weights int8 tells the cost."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    cache: bool = True
    """Keep keys and values of the past; --no-cache computes them again each time, with the same result."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 generate`."""
    options = tyro.cli(Generate, args=argv, prog="gpt2 generate")
    from gpt2.cli.models import open_model
    from gpt2.errors import ConfigError
    from gpt2.generation.sampling import Sampling
    from gpt2.generation.text import Continuation, stream_text
    from gpt2.model.ops.decode import why_plain
    from gpt2.model.ops.int8 import rounded

    if options.num_samples < 1:
        raise ConfigError(f"num_samples must be 1 or more, got {options.num_samples}")
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    chosen: dict[str, Any] = {name: getattr(options, name) for name in names}
    Sampling.from_options({}, chosen)  # bad values are refused before the model is loaded
    model, tokenizer = open_model(options.model, options.device)
    if options.weights == "int8":
        model = rounded(model)
    if model.kernels.name == "fused" and options.device in ("auto", "cpu") and (reason := why_plain(model)):
        print(f"gpt2: note: decoding by the model's forward pass, which is slower: {reason}", file=sys.stderr)
    sampling = Sampling.from_options({"temperature": 0.8, **model.generation_defaults}, chosen)
    prompts = [prompt for prompt in options.prompt or ("",) for _ in range(options.num_samples)]
    results = [Continuation(prompt) for prompt in prompts]
    stream = stream_text(
        model, tokenizer, prompts, max_new_tokens=options.max_new_tokens, sampling=sampling, stop=options.stop,
        seed=options.seed, use_cache=options.cache, results=results,
    )  # fmt: skip
    alone = len(prompts) == 1 and not options.json
    begun = False
    for _, text in stream:
        if alone:
            _write(text if begun else prompts[0] + text)
            begun = True
    if alone:
        _write("\n" if begun else prompts[0] + "\n")
    for number, result in enumerate(results):
        if options.json:
            _write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        elif not alone:
            _write(f"--- {number + 1} ---\n{result.prompt}{result.text}\n")
    return 0


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()
