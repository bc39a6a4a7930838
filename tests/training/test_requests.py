"""What is asked of a run from outside arrives, whenever it comes."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt2.training.distributed import Processes
from gpt2.training.requests import Requests

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends signals to processes in another way")


class Interrupted(Processes):
    """One process, to which a signal comes while it asks the others: after it gave its own answer."""

    number: int | None = None

    def gather(self, *values: float) -> Any:
        rows = super().gather(*values)
        if self.number is not None:
            os.kill(os.getpid(), self.number)
            self.number = None
        return rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_in_the_middle_of_the_look_is_obeyed_after_the_next_step(tmp_path: Path, number: int) -> None:
    processes, trainer = Interrupted(), SimpleNamespace(stop_reason=None)
    with Requests(tmp_path, processes) as requests:
        requests(trainer, None)  # pyright: ignore
        processes.number = number
        requests(trainer, None)  # pyright: ignore
        assert trainer.stop_reason is None
        requests(trainer, None)  # pyright: ignore
        if number == signal.SIGUSR1:
            assert requests.save
    if number != signal.SIGUSR1:
        assert trainer.stop_reason == f"{signal.Signals(number).name} received"
        assert requests.received == number


def test_what_one_process_was_asked_waits_until_all_know(tmp_path: Path) -> None:
    """Or one of several would save a step, or end, without the others."""
    trainer = SimpleNamespace(stop_reason=None)
    with Requests(tmp_path, Processes()) as requests:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert (requests.save, requests.received) == (False, None)
        requests(trainer, None)  # pyright: ignore
        assert (requests.save, requests.received) == (True, signal.SIGTERM)


def test_a_signal_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    with Requests(tmp_path) as requests:
        os.kill(os.getpid(), signal.SIGINT)
    assert requests.received == signal.SIGINT
