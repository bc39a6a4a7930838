"""Run under strace: many children, each of which meets one failing system call in the middle of its work.

    strace -f -e inject=fsync:signal=KILL:when=60 ... python victim.py save|prepare FOLDER

strace counts the calls of each process on its own. So a child that is to meet its k-th fsync first makes 60 - k
fsyncs of no account; one start of Python serves for every fault.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

WHEN = 60
# How many of each call the work makes, about: what is beyond is simply not met.
CALLS = {
    "save": {"mkdir": 2, "ftruncate": 2, "write": 4, "renameat": 2, "fsync": 6, "rename": 1},
    "prepare": {"mkdir": 5, "write": 14, "fsync": 14, "rename": 14},
}


def waste(call: str, count: int, place: Path) -> None:
    """Make a system call of no account `count` times."""
    file = os.open(place / "waste", os.O_RDWR | os.O_CREAT)
    calls: dict[str, Callable[[], object]] = {
        "write": lambda: os.write(file, b"x"),
        "fsync": lambda: os.fsync(file),
        "ftruncate": lambda: os.ftruncate(file, 0),
        "rename": lambda: os.rename(place / "waste", place / "waste"),  # noqa: PTH104 - the bare call
        "renameat": lambda: os.rename("waste", "waste", src_dir_fd=folder, dst_dir_fd=folder),
        "mkdir": lambda: make_again(place),
    }
    folder = os.open(place, os.O_RDONLY)
    for _ in range(count):
        calls[call]()
    os.close(file)
    os.close(folder)


def make_again(place: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(place)  # noqa: PTH102 - one call, no more


def save(folder: Path) -> None:
    """The second generation of a checkpoint, and the clearing away after it."""
    import torch

    from gpt2.checkpoint.store import prune_checkpoints, save_checkpoint

    tensors = {"model": {"w": torch.full((100,), 2.0)}, "optimizer": {"m": torch.full((50,), 2.0)}}
    save_checkpoint(folder / "checkpoints", 2, tensors, {"generation": 2})
    prune_checkpoints(folder / "checkpoints")


def prepare(folder: Path) -> None:
    """Token shards of the text and with the tokenizer that lie in the folder above."""
    from gpt2.data import prepare_corpus, survey
    from gpt2.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder.parent / "tokenizer.json")
    corpus = survey([folder.parent / "text.txt"], cache=folder.parent / "surveys", progress=False)
    prepare_corpus(corpus, tokenizer, cache=folder, shard_ids=2500, workers=1, progress=False)


def main(kind: str, place: Path) -> None:
    """One child per folder `place/CALL-K`, one after another; each one's end stands in `place/ends`."""
    import torch

    from gpt2.errors import UserError

    torch.set_num_threads(1)
    work, ends = {"save": save, "prepare": prepare}[kind], []
    if kind == "prepare":  # loads what children would each load again
        (place / "first").mkdir()
        prepare(place / "first")
    for folder in sorted(path for path in place.iterdir() if "-" in path.name):
        call, _, number = folder.name.partition("-")
        child = os.fork()
        if child == 0:
            waste(call, WHEN - int(number), folder)
            try:
                work(folder)
            except UserError as error:
                (folder / "error").write_text(str(error))
                os._exit(2)
            except BaseException as error:
                (folder / "error").write_text(repr(error))
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ends.append(f"{folder.name} {os.waitstatus_to_exitcode(status)}")
    (place / "ends").write_text("\n".join(ends))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
