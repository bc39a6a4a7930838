"""The thread that writes: one job at a time, no error lost."""

import threading

import pytest
import torch

from gpt2.checkpoint.background import Background, copied
from gpt2.errors import UserError


def fail() -> None:
    raise UserError("no room")


def test_an_error_comes_out_once() -> None:
    background = Background()
    background.poll()
    background.submit(fail)
    with pytest.raises(UserError, match="no room"):
        background.wait()
    background.wait()
    background.poll()


def test_polling_waits_for_nothing_and_the_next_job_brings_the_error() -> None:
    background, gate, ran = Background(), threading.Event(), []
    background.submit(lambda: gate.wait(10) and fail())
    assert background.busy
    background.poll()
    gate.set()
    with pytest.raises(UserError, match="no room"):
        background.submit(lambda: ran.append(1))
    assert ran == []
    background.submit(lambda: ran.append(1))
    background.wait()
    assert ran == [1]
    assert not background.busy
    assert background.seconds == 0


def test_never_two_at_once() -> None:
    background, inside, most = Background(), [], []

    def job() -> None:
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    for _ in range(50):
        background.submit(job)
    background.wait()
    assert most == [1] * 50


def test_copies_do_not_change_with_the_original() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    held = copied({"model": {"w": weight.T, "v": weight}})
    weight.zero_()
    assert held["model"]["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert held["model"]["w"].is_contiguous()
    assert held["model"]["v"].sum() == 15
