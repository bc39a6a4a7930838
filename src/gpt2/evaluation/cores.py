"""Pieces of an examination beside one another, each on one core.

Inside a piece, where every operation is short, threads wait for one another, the more so the busier the machine is.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

# Seconds after which a thread lets another run Python. Python's own 5 ms are longer than most operations take.
_TURN = 5e-4


def usable_cores(model: nn.Module) -> int:
    """PyTorch's threads if the model is on the CPU; else 1, since one thread keeps a GPU busy."""
    return torch.get_num_threads() if next(model.parameters()).device.type == "cpu" else 1


class Cores:
    """Threads that do tasks on one core each, in the order given; what comes out does not depend on their number.

    Used by `with`; leaving it in an exception drops what has not begun.

    Args:
        count: cores; with a single one the caller does each task as it is submitted, as if there were no `Cores`.
        caller_works: leave the caller half of them, until it calls `join_in`.
    """

    def __init__(self, count: int, *, caller_works: bool = False) -> None:
        self._count, self._kept = count, count // 2 if caller_works else 0
        self._waits = threading.Event()
        self._before = sys.getswitchinterval(), torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._count > 1:
            sys.setswitchinterval(_TURN)
            self._pool = ThreadPoolExecutor(self._count, initializer=torch.set_num_threads, initargs=(1,))
            for _ in range(self._kept):  # a thread that sleeps is a core that is left to the caller
                self._pool.submit(self._waits.wait)
            torch.set_num_threads(max(1, self._kept))
        return self

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Do `task(*arguments)` beside the others; its result comes from the future."""
        if self._pool is not None:
            return self._pool.submit(task, *arguments)
        done: Future[Any] = Future()
        done.set_result(task(*arguments))
        return done

    def join_in(self) -> None:
        """The caller has nothing left but to wait: its cores are for the tasks from now on."""
        self._waits.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.join_in()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            sys.setswitchinterval(self._before[0])
            torch.set_num_threads(self._before[1])  # which PyTorch also keeps for threads that are still to come
