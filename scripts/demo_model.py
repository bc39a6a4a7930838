"""Train the model that the package brings, measure it, and put it into src/gpt2/demo_model.

    python scripts/demo_model.py                      # text from data/, fetched if it is not there
    python scripts/demo_model.py --data FOLDER        # with TinyStories-train.txt and TinyStories-valid.txt
    python scripts/demo_model.py --run FOLDER         # a run that is whole is only packed, a stopped one continued

Settings: scripts/demo_model.toml. The same text on the same machine gives the same weights.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from gpt2 import GPT2, Tokenizer, load, train
from gpt2.checkpoint import RunFolder
from gpt2.data.download import download
from gpt2.evaluation import text
from gpt2.evaluation.bits_per_byte import Score, score_documents
from gpt2.files import atomic_write, sha256, write_json
from gpt2.generation.sampling import Sampling
from gpt2.generation.text import generate_text
from gpt2.settings import read_toml

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ROOT / "scripts" / "demo_model.toml"
FILES = ("TinyStories-train.txt", "TinyStories-valid.txt")
DOCUMENTS = 600  # of the validation text, the first ones: as many as the sample of it has

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
license: mit
datasets:
- roneneldan/TinyStories
---

# The demo model

A GPT-2 of {parameters:,} parameters ({layers} layers, d_model {width}, {heads} heads, context {context}, vocabulary
{vocabulary:,}) that tells stories for small children. It is here to be tried and looked into right after installation:
`gpt2 generate demo "Once upon a time"`, `gpt2 inspect demo`, `load("demo")`. It is no assistant, and knows nothing.

| | |
| --- | --- |
| text | {text_bytes:,} bytes of TinyStories, {documents:,} stories, {text_tokens:,} tokens |
| its SHA-256 | {text_sha} |
| training | {steps:,} steps of {batch:,} tokens: {tokens:,} tokens, {passes:.1f} times the text |
| held out | {held:,} stories of its validation file, {held_bytes:,} bytes |
| bits per byte, weights in 32 bits | {before:.4f} |
| bits per byte, in 16 bits, as they are here | {after:.4f} (95 % over stories: {low:.4f} to {high:.4f}) |
| torch | {torch} |

Made by `make demo-model`. The settings are in `scripts/demo_model.toml`, all figures in `figures.json`.

## Text and licence

[TinyStories](https://huggingface.co/datasets/roneneldan/TinyStories) (Eldan and Li, 2023, arXiv 2305.07759), licence
[CDLA-Sharing-1.0](https://cdla.dev/sharing-1-0/). None of its text is here; weights and vocabulary are results of
computing with it, on which that licence puts no conditions. They come under this project's licence, MIT.

## A sample

At temperature 0.8, seed 0:

{sample}
"""


def main(arguments: list[str] | None = None) -> None:
    """Train or continue if there is need, then measure and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the two files (default: data)")
    parser.add_argument("--run", type=Path, default=Path("models/demo-model"), help="where the run is, or goes")
    parser.add_argument("--out", type=Path, default=ROOT / "src" / "gpt2" / "demo_model", help="where the model goes")
    options = parser.parse_args(arguments)
    if not all((options.data / name).is_file() for name in FILES):
        download("tinystories", options.data)
    training, valid = (options.data / name for name in FILES)
    folder = RunFolder(options.run)
    if not folder.evaluation.is_file():  # written when all is done
        if folder.config.is_file():
            train(resume=str(options.run))
        else:
            train([training], valid=[valid], config=str(SETTINGS), out=str(options.run))
    figures = pack(options.run, training, valid, options.out)
    print(json.dumps(figures, indent=2))


def pack(run: Path, training: Path, valid: Path, out: Path) -> dict[str, Any]:
    """Put the run's model into `out` in 16 bits, with card and figures; gives the figures."""
    model, tokenizer = load(run)
    judged = text.Judged(text.from_files([valid]).texts[:DOCUMENTS], valid.name)
    before = _score(model, tokenizer, judged)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    small, tokenizer = load(out, dtype=torch.float32)
    after = _score(small, tokenizer, judged)
    figures = {**_facts(run, training, tokenizer), **_quality(judged, before, after)}
    figures["weights_sha256"] = sha256(out / "model.safetensors")
    write_json(out / "figures.json", figures)
    with atomic_write(out / "README.md") as file:
        file.write(_card(small, figures, _sample(small, tokenizer)))
    return figures


def _score(model: GPT2, tokenizer: Tokenizer, judged: text.Judged) -> Score:
    return score_documents(model, judged.encode(tokenizer), judged.num_bytes, tokenizer.eos_token_id)


def _facts(run: Path, training: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """What the model has learned from, and for how long."""
    corpus = text.corpus_of(run, progress=False)
    assert corpus is not None, f"{run} is no run"
    shards = text.training_shards(corpus, tokenizer)
    wanted = read_toml(SETTINGS)
    last = json.loads(RunFolder(run).metrics.read_text(encoding="utf-8").splitlines()[-1])
    return {
        "text": {
            "name": training.name,
            "bytes": corpus.num_bytes,
            "documents": corpus.num_documents,
            "tokens": shards.num_tokens,
            "sha256": sha256(training),
        },
        "settings": {k: v for k, v in read_toml(RunFolder(run).config).items() if k in wanted},  # no paths
        "steps": last["step"],
        "tokens": last["tokens"],
        "torch": torch.__version__,
    }


def _quality(judged: text.Judged, before: Score, after: Score) -> dict[str, Any]:
    """Bits per byte of held-out stories with 32 and with 16 bits per weight."""
    return {
        "held_out": {"name": judged.source, "documents": len(judged.texts), "bytes": int(judged.num_bytes.sum())},
        "bits_per_byte": {"float32": before.bits_per_byte, "float16": after.bits_per_byte},
        "bits_per_byte_interval": after.interval(),
        "loss": after.loss,
    }


def _sample(model: GPT2, tokenizer: Tokenizer) -> str:
    (told,) = generate_text(
        model, tokenizer, ["Once upon a time"], max_new_tokens=200, sampling=Sampling(temperature=0.8), seed=0
    )
    return told.prompt + told.text


def _card(model: GPT2, figures: dict[str, Any], sample: str) -> str:
    config, learned, held = model.config, figures["text"], figures["held_out"]
    low, high = figures["bits_per_byte_interval"]
    return CARD.format(
        parameters=model.num_parameters(), layers=config.num_layers, width=config.d_model, heads=config.num_heads,
        context=config.context_length, vocabulary=config.vocab_size, text_bytes=learned["bytes"],
        documents=learned["documents"], text_tokens=learned["tokens"], text_sha=learned["sha256"],
        steps=figures["steps"], batch=figures["settings"]["batch_size"] * config.context_length,
        tokens=figures["tokens"], passes=figures["tokens"] / learned["tokens"], held=held["documents"],
        held_bytes=held["bytes"], before=figures["bits_per_byte"]["float32"], after=figures["bits_per_byte"]["float16"],
        low=low, high=high, torch=figures["torch"],
        sample="\n".join(f"> {line}".rstrip() for line in sample.splitlines()),
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
