"""What each part of the recipe is worth: one change at a time, several seeds, the same tokens.

    python -m benchmarks.ablation TEXT VALID     trains what benchmarks/results/ablation.jsonl has not yet
    python -m benchmarks.ablation                writes the table of docs/recipe.md from that file

Steps are counted, not seconds, so a busy machine changes nothing but the wait.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.ablation_changes import CHANGES, TOKENS, Recipe
from gpt2 import GPT2, GPT2Config
from gpt2.data import Prepared, prepare_corpus, survey
from gpt2.data.loader import BatchLoader
from gpt2.device import keep_freed_memory
from gpt2.tokenizer import Tokenizer
from gpt2.training.averaging import WeightAverage
from gpt2.training.finish import validate
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.optimizers import gradient_norm
from gpt2.training.schedule import learning_rate_factor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ablation.jsonl"
PAGE = ROOT / "docs" / "recipe.md"
_BEGIN, _END = "<!-- ablation: written by python -m benchmarks.ablation -->", "<!-- end of ablation -->"
_SEEDS = 3
_SHAPE = {"num_layers": 4, "d_model": 64, "num_heads": 2, "context_length": 256}
_VOCABULARY = 4096


@dataclass(frozen=True)
class Result:
    """Bits per byte of one run."""

    change: str
    seed: int
    last: float
    average: float


def train(prepared: Prepared, tokenizer: Tokenizer, recipe: Recipe, seed: int) -> tuple[float, float]:
    """Train one model; bits per byte of its last weights and of their average."""
    config = GPT2Config(vocab_size=tokenizer.vocab_size, dropout=recipe.dropout, **_SHAPE)
    model = GPT2(config, generator=torch.Generator().manual_seed(seed))
    parameters = dict(model.named_parameters())
    recipe.initialize(parameters)
    optimizer, loss, average = recipe.optimizer(parameters), LanguageModelLoss(model), WeightAverage(parameters)
    loader = BatchLoader(prepared.train, recipe.unit, config.context_length, seed)
    done = step = 0
    model.train()
    while done < TOKENS // recipe.unit:
        progress = done * recipe.unit / TOKENS
        torch.manual_seed(step)
        batches = [loader.batch(done + i) for i in range(recipe.units(progress))]
        count = sum(batch.targets.numel() for batch in batches)
        for batch in batches:
            (loss(batch)[0] / count).backward()
        if recipe.clip:
            scale = min(1.0, recipe.clip / float(gradient_norm(list(parameters.values()))))
            for parameter in parameters.values():
                parameter.grad.mul_(scale)  # pyright: ignore[reportOptionalMemberAccess]
        factor = learning_rate_factor(progress, recipe.warmup, recipe.decay, recipe.hold, recipe.floor)
        optimizer.step(factor)
        model.zero_grad(set_to_none=True)
        done, step = done + len(batches), step + 1
        average.update(min(1.0, done * recipe.unit / TOKENS))
    last = _bits_per_byte(model, prepared, tokenizer)
    with average.applied():
        return last, _bits_per_byte(model, prepared, tokenizer)


def _bits_per_byte(model: GPT2, prepared: Prepared, tokenizer: Tokenizer) -> float:
    documents = range(0, prepared.valid.num_documents, 2)
    return validate(model, prepared.valid, documents, tokenizer.eos_token_id).bits_per_byte


def read(path: Path = RESULTS) -> list[Result]:
    """The runs there are."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def run(text: str, valid: str) -> None:
    """Train every change with every seed, changes in order, and keep each result at once."""
    torch.set_num_threads(1)
    keep_freed_memory()
    corpus = survey([text], valid=[valid], progress=False)
    tokenizer = Tokenizer.train(corpus.training_texts(), _VOCABULARY)
    prepared = prepare_corpus(corpus, tokenizer, progress=False)
    known = {(result.change, result.seed) for result in read()}
    todo = [(name, seed) for name in CHANGES for seed in range(_SEEDS) if (name, seed) not in known]
    for name, seed in tqdm(todo):
        last, average = train(prepared, tokenizer, CHANGES[name], seed)
        with RESULTS.open("a", encoding="utf-8") as file:
            result = {"change": name, "seed": seed, "last": round(last, 5), "average": round(average, 5)}
            file.write(json.dumps(result) + "\n")


def table(results: list[Result]) -> str:
    """Markdown: the mean of each change, and its difference to the recipe, seed by seed, with the standard error."""
    by_change: dict[str, dict[int, Result]] = {}
    for result in results:
        by_change.setdefault(result.change, {})[result.seed] = result
    base = by_change[next(iter(CHANGES))]
    lines = ["| change | bits per byte | difference | last weights |", "| --- | ---: | ---: | ---: |"]
    complete = {name: seeds for name, seeds in by_change.items() if name in CHANGES and len(seeds) >= _SEEDS}
    for name in sorted(complete, key=lambda name: _mean(complete[name])):
        seeds = complete[name]
        differences = [seeds[seed].average - base[seed].average for seed in sorted(seeds)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        difference = "" if seeds is base else f"{statistics.mean(differences):+.4f} ± {error:.4f}"
        shown = f"**{name}**" if seeds is base else name
        last = statistics.mean(result.last for result in seeds.values())
        lines.append(f"| {shown} | {_mean(seeds):.4f} | {difference} | {last:.4f} |")
    return "\n".join(lines)


def _mean(seeds: Mapping[int, Result]) -> float:
    return statistics.mean(result.average for result in seeds.values())


def write_page(page: Path = PAGE) -> None:
    """Put the table in its place."""
    head, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    tail = rest.partition(_END)[2]
    page.write_text(f"{head}{_BEGIN}\n\n{table(read())}\n\n{_END}{tail}", encoding="utf-8")


def main() -> None:
    """Train what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", help="TinyStories-train.txt")
    parser.add_argument("valid", nargs="?", help="TinyStories-valid.txt")
    arguments = parser.parse_args()
    if arguments.text and not arguments.valid:
        parser.error("VALID is missing: the text that every run is judged on")
    if arguments.text:
        run(arguments.text, arguments.valid)
    elif not read():
        sys.exit(f"{RESULTS} has no runs yet: python -m benchmarks.ablation TEXT VALID makes them")
    else:
        write_page()


if __name__ == "__main__":
    main()
