"""What the seed alone changes: small models trained over seeds, their scores kept for tests/evaluation/test_compare.py.

    python scripts/seed_noise.py tests/evaluation/seeds.npz                         # print what it holds
    python scripts/seed_noise.py seeds.npz --settings 2x32-100 --seeds 20           # add what is missing to the file

A setting is a shape of `SHAPES` and a number of steps. The text is the bundled stories: 1,800 to learn from, 200 to be
judged on. The file has "bytes" (200) of the stories judged and, for each setting, nats (seeds, 200) in float32.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from gpt2.data import iter_documents
from gpt2.evaluation.bits_per_byte import Score, score_documents
from gpt2.evaluation.compare import compare, seed_noise
from gpt2.evaluation.text import Judged
from gpt2.settings import TrainSettings
from gpt2.training.determinism import Deterministic
from gpt2.training.run import assemble

LEARNED, JUDGED = slice(0, 1800), slice(1800, 2000)
SHAPES = {
    "2x32": {"num_layers": 2, "d_model": 32, "num_heads": 2, "context_length": 64, "vocab_size": 384},
    "2x64": {"num_layers": 2, "d_model": 64, "num_heads": 2, "context_length": 64, "vocab_size": 512},
    "4x128": {"num_layers": 4, "d_model": 128, "num_heads": 4, "context_length": 128, "vocab_size": 1024},
}


def trained(folder: Path, setting: str, seed: int, stories: list[str]) -> np.ndarray:
    """Nats of each judged story under a new model, the average of its last weights as `gpt2 train` keeps it."""
    shape, steps = setting.split("-")
    for name, some in (("train.txt", stories[LEARNED]), ("valid.txt", stories[JUDGED])):
        (folder / name).write_text("\n<|endoftext|>\n".join(some), encoding="utf-8")
    session = assemble(
        TrainSettings.make(
            text=[str(folder / "train.txt")], valid=[str(folder / "valid.txt")], out=str(folder / "run"), seed=seed,
            steps=int(steps), batch_size=16, dtype="float32", compile="off", threads=1, **SHAPES[shape],
        ),
        progress=False,
    )  # fmt: skip
    assert session is not None
    session.trainer.hooks = [lambda trainer, result: session.average.update(trainer.progress)]
    with Deterministic():
        session.trainer.fit()
    judged = Judged(stories[JUDGED], "")
    with session.average.applied():
        end = session.tokenizer.eos_token_id
        return score_documents(session.model, judged.encode(session.tokenizer), judged.num_bytes, end).nats


def told_apart(nats: np.ndarray, num_bytes: np.ndarray, noise: float) -> tuple[int, int]:
    """(pairs of seeds that `compare` tells from noise, pairs)."""
    scores = [Score(row.astype(float), np.ones(len(row), np.int64), num_bytes) for row in nats]
    pairs = list(itertools.combinations(scores, 2))
    return sum(compare([a], [b], noise).is_told_from_noise for a, b in pairs), len(pairs)


def main() -> None:
    """Train what is asked for and missing, then print a line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--settings", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stories = list(iter_documents())
    held = dict(np.load(options.file, allow_pickle=False)) if options.file.exists() else {}
    held.setdefault("bytes", Judged(stories[JUDGED], "").num_bytes)
    for setting in options.settings:
        while len(held.get(setting, ())) < options.seeds:
            seed = len(held.get(setting, ()))
            with tempfile.TemporaryDirectory() as folder:
                nats = trained(Path(folder), setting, seed, stories).astype(np.float32)
            held[setting] = np.concatenate([held.get(setting, np.empty((0, len(nats)), np.float32)), nats[None]])
            np.savez_compressed(options.file, **held)  # after each run, so that a stopped call loses one
    for setting in sorted(held.keys() - {"bytes"}):
        noise, figures = seed_noise(int(setting.split("-")[1])), held[setting].sum(1) / np.log(2) / held["bytes"].sum()
        told, pairs = told_apart(held[setting], held["bytes"], noise)
        print(
            f"{setting:<10} {len(figures)} seeds: {figures.mean():.4f} bits per byte, standard deviation "
            f"{figures.std(ddof=1) / figures.mean():.3%} (assumed {noise:.3%}), {told} of {pairs} pairs told apart"
        )


if __name__ == "__main__":
    main()
