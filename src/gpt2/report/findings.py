"""The parts of the report that show an examination (`evaluation.json`)."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gpt2.evaluation.stories import FIGURES
from gpt2.report.card import share
from gpt2.report.charts import bar_chart, histogram

_GOOD = {"memorised": "bad", "recites now and then": "bad", "not memorised": "good"}


def levels(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Baselines on a chart of the loss: bits per byte in nats per token of the same text."""
    if not found:
        return []
    nats_per_token = math.log(2) * found["bytes"] / found["tokens"]
    return [(name, bits * nats_per_token) for name, bits in found["baselines"].items() if name in ("unigram", "bigram")]


def evaluation(found: Mapping[str, Any]) -> str:
    """Bits per byte beside the baselines."""
    if not found:
        return ""
    interval = found["bits_per_byte_interval"]
    rows = [("this model", found["bits_per_byte"], "model")]
    rows += [(name, value, "other") for name, value in sorted(found["baselines"].items(), key=lambda item: item[1])]
    told = f" 95 % interval over documents: {interval[0]:.4f} to {interval[1]:.4f}." if interval else ""
    chart = bar_chart(rows, "bits per byte; less is better", tuple(interval) if interval else None)
    return (
        f"<h2>How well it predicts</h2>\n<p>{found['documents']:,} documents, {found['bytes']:,} bytes, "
        f"{found['tokens']:,} tokens: {escape(found['text'])}. Loss {found['loss']:.4f} nats per token.{told}</p>\n"
        f"<figure>{chart}<figcaption>unigram and bigram count {escape(found['baselines_counted_on'])}; "
        f"gzip -9 and zstd -19 see all the documents as one file.</figcaption></figure>"
    )


def stories(found: Mapping[str, Any]) -> str:
    """The model's stories beside real ones, and minimal pairs."""
    quality = found.get("stories")
    if not quality:
        return ""
    rows = [
        (FIGURES[name], share(name, figure) + _half(name, figure), _share_or_nothing(name, quality["held_out"]))
        for name, figure in quality["model"].items()
    ]
    examples = "".join(f"<blockquote>{escape(text.strip())}</blockquote>" for text in quality.get("examples", [])[:3])
    return (
        f"<h2>What it writes</h2>\n{examples}<h3>Its stories beside real ones</h3>\n"
        f"<p>{quality['samples']} stories from nothing, temperature {quality['temperature']:g}; held-out documents, "
        f"cut to the same {quality['max_tokens']} tokens. What matters is the distance between the columns.</p>\n"
        f"{_table(('figure', 'model', 'real text'), rows)}\n{_grammar(quality)}"
    )


def _grammar(quality: Mapping[str, Any]) -> str:
    if not quality["grammar"]:
        return ""
    bigram = quality["grammar_bigram"]
    rows = [
        (escape(rule), f"{100 * value:.0f} %", f"{100 * bigram[rule]:.0f} %")
        for rule, value in quality["grammar"].items()
    ]
    return (
        f"<h3>Grammar and coherence</h3>\n<p>Real held-out text, and the same with one fault: how often is the real "
        f"one found likelier? {quality['pairs']} pairs; chance is 50 %. A bigram model finds faults of neighbouring "
        f"words, and is blind where the story before matters.</p>\n{_table(('fault', 'model', 'bigram'), rows)}"
    )


def memorization(found: Mapping[str, Any]) -> str:
    """Longest passages out of the training text, of samples and of held-out text."""
    memory = found.get("memorization")
    if not memory:
        return ""
    chart = histogram(
        [("samples", memory["samples"], "model"), ("held-out text", memory["held_out"], "real")],
        "longest shared passage (tokens; 0: under 8)",
        (f"recited beyond {memory['threshold']}", memory["threshold"]),
    )
    return (
        f"<h2>Does it recite?</h2>\n<p><span class={_GOOD[memory['verdict']]}>{memory['verdict'].capitalize()}.</span> "
        f"{100 * memory['recited']:.0f} % of its stories share more than {memory['threshold']} tokens in a row with "
        f"the training text. Real text shares some by chance, too.</p>\n"
        f"<figure>{chart}<figcaption><span class='key model'></span>its stories<span class='key real'></span>"
        f"held-out text</figcaption></figure>\n"
        f"<p class=soft>The longest passage it took over: “{escape(memory['passage'])}”</p>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers; cells are HTML."""

    def row(cells: Sequence[str], tag: str) -> str:
        first, *rest = cells
        return f"<tr><{tag}>{first}</{tag}>" + "".join(f"<{tag} class=n>{cell}</{tag}>" for cell in rest) + "</tr>"

    return f"<div class=scroll><table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table></div>"


def _share_or_nothing(name: str, figures: Mapping[str, Any]) -> str:
    return share(name, figures[name]) if name in figures else ""


def _half(name: str, figure: Mapping[str, Any]) -> str:
    """Half the width of a 95 % interval, as " ± 3"."""
    if not figure["interval"]:
        return ""
    half = (figure["interval"][1] - figure["interval"][0]) / 2
    return f" <small>± {half:.0f}</small>" if name == "words" else f" <small>± {100 * half:.1f}</small>"
