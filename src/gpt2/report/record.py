"""evaluation.json: what was found out about a run's model, for the card and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2.evaluation.examine import Examination
from gpt2.files import write_json
from gpt2.model import GPT2

_EXAMPLES = 8


def record(target: Path, model: GPT2, examination: Examination, events: Sequence[str] = ()) -> dict[str, Any]:
    """Write evaluation.json.

    Args:
        target: the file.
        model: what was examined.
        examination: what was found.
        events: what happened in training that a reader should know, in sentences.

    Returns:
        What was written.
    """
    config = model.config
    found = {
        "parameters": model.num_parameters(),
        "shape": f"{config.num_layers} layers, width {config.d_model}, {config.num_heads} heads, "
        f"context {config.context_length}, vocabulary {config.vocab_size:,}",
        "events": list(events),
        **examination.to_json(),
    }
    if examination.stories is not None:
        found["stories"]["examples"] = [sample.text for sample in examination.stories.samples[:_EXAMPLES]]
    write_json(target, found)
    return found
