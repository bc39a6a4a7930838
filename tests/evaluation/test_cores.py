"""Tasks beside one another: in order, with the caller's share, and nothing left behind."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
import torch

from gpt2.evaluation.cores import Cores


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_each_task_has_one_core_and_the_caller_its_half_until_it_waits() -> None:
    meet = threading.Barrier(3)  # two tasks and this test: they can only meet if they run at once

    def task() -> int:
        meet.wait(timeout=20)
        return torch.get_num_threads()

    with Cores(4, caller_works=True) as cores:
        assert torch.get_num_threads() == 2
        found = [cores.submit(task) for _ in range(2)]
        third = cores.submit(threading.get_ident)
        meet.wait(timeout=20)
        assert [future.result(20) for future in found] == [1, 1]
        blocked, go_on = [cores.submit(meet.wait, 20) for _ in range(2)], cores.submit(lambda: "at last")
        assert not go_on.done()  # two threads wait for a third, two are the caller's
        cores.join_in()
        assert go_on.result(20) == "at last"
        meet.wait(timeout=20)
        assert third.result(20) != threading.get_ident()
        assert all(isinstance(future.result(20), int) for future in blocked)
    assert torch.get_num_threads() == 4


def test_one_core_means_at_once_by_the_caller_with_all_its_threads() -> None:
    with Cores(1, caller_works=True) as cores:
        assert cores.submit(lambda a, b: (a + b, threading.get_ident()), 1, 2).result(0) == (3, threading.get_ident())
        assert torch.get_num_threads() == 4


def test_an_exception_drops_what_has_not_begun_and_puts_everything_back() -> None:
    turn, go_on, running, waiting = sys.getswitchinterval(), threading.Event(), [], []

    def stopped() -> None:
        with Cores(2) as cores:
            running.extend(cores.submit(go_on.wait, 20) for _ in range(2))
            waiting.extend(cores.submit(pytest.fail, "it must not begin") for _ in range(50))
            threading.Timer(0.2, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert all(future.result(20) for future in running)
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(0)
    assert (sys.getswitchinterval(), torch.get_num_threads()) == (turn, 4)


def test_a_tasks_error_reaches_who_asks_for_its_result() -> None:
    def task() -> None:
        raise ValueError("no such thing")

    with Cores(2) as cores:
        future = cores.submit(task)
        with pytest.raises(ValueError, match="no such thing"):
            future.result(20)
