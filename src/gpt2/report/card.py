"""The model card: README.md of the model folder, with the metadata that the Hugging Face Hub reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.evaluation.stories import FIGURES
from gpt2.files import atomic_write


def write_card(
    target: Path,
    name: str,
    facts: Mapping[str, str],
    sample: str,
    settings_file: str,
    found: Mapping[str, Any] | None = None,
) -> None:
    """Write the model card: what it is, how it was made, how good it is, how to use it.

    Args:
        target: README.md.
        name: of the model.
        facts: rows of the first table.
        sample: a text that the model wrote.
        settings_file: what trains it again.
        found: an examination as JSON values; its figures go into the metadata and a table.
    """
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    with atomic_write(target) as file:
        file.write(
            f"{_front_matter(name, found)}\n# {name}\n\n"
            f"A GPT-2 trained with gpt2-from-scratch. It is an ordinary Hugging Face GPT-2 folder.\n\n"
            f"| | |\n| --- | --- |\n{rows}\n\n"
            f"{_evaluation(found)}"
            f"## Use\n\n```python\nfrom gpt2 import load\n\nmodel, tokenizer = load({name!r})  # or transformers' "
            f"AutoModelForCausalLM and AutoTokenizer\n```\n\n"
            f"## A sample\n\n{_quoted(sample)}\n\n## Train it again\n\n    gpt2 train --config {settings_file}\n"
        )


def _front_matter(name: str, found: Mapping[str, Any] | None) -> str:
    """YAML as the Hub's model cards have it; strings as JSON, which YAML reads."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- gpt2"]
    if found:
        lines += [
            "model-index:", f"- name: {json.dumps(name)}", "  results:", "  - task:", "      type: text-generation",
            "    dataset:", "      type: text", f"      name: {json.dumps(found['text'])}", "    metrics:",
        ]  # fmt: skip
        for kind, title in (
            ("bits_per_byte", "Bits per byte"),
            ("perplexity", "Perplexity"),
            ("loss", "Loss (nats per token)"),
        ):
            lines += [f"    - type: {kind}", f"      name: {title}", f"      value: {found[kind]:.6g}"]
    return "\n".join([*lines, "---", ""])


def _evaluation(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    interval = found["bits_per_byte_interval"]
    below = ", ".join(f"{name} {value:.2f}" for name, value in found["baselines"].items())
    lines = [
        "## How good it is",
        "",
        f"{found['bits_per_byte']:.4f} bits per byte on {found['documents']:,} documents that it has not learned from"
        + (f" (95 % over documents: {interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
        + f". The same text without a neural network: {below}.",
        "",
    ]
    if stories := found.get("stories"):
        lines += [f"| its stories ({stories['samples']}) | model | real text |", "| --- | ---: | ---: |"]
        for figure, value in stories["model"].items():
            real = stories["held_out"].get(figure)
            lines.append(f"| {FIGURES[figure]} | {share(figure, value)} | {share(figure, real) if real else ''} |")
        lines.append("")
    if memory := found.get("memorization"):
        lines += [
            f"Memorisation: {memory['verdict']}. {100 * memory['recited']:.0f} % of its stories share more than "
            f"{memory['threshold']} tokens in a row with the training text.",
            "",
        ]
    return "\n".join([*lines, ""])


def share(name: str, figure: Mapping[str, Any]) -> str:
    """A figure of stories as people read it: "93 %", or words as they are."""
    value = figure["value"]
    if name == "words":
        return f"{value:.0f}"
    return f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines()) or "> (nothing)"
