"""S1 for nanoGPT's `ckpt.pt`: a pickle from a stranger. Refused with a clear error; nothing runs, hangs, or eats the memory."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.interop.importing import import_model
from tests.faults.harness import needs_fork
from tests.faults.hostile import Malicious, attempt, nanogpt

pytestmark = [needs_fork, pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")]


def test_the_checkpoint_that_is_spoilt_below_is_good(tmp_path: Path) -> None:
    assert import_model(str(nanogpt(tmp_path / "ckpt.pt")), out=tmp_path / "out").verified is not None


ATTENTION = "transformer.h.0.attn.c_attn.weight"
NANOGPT: dict[str, Callable[[Path], dict[str, Any]]] = {
    "code among the weights": lambda marker: {"model": {ATTENTION: Malicious(marker)}},
    "code in the shape": lambda marker: {"model_args": {"n_layer": Malicious(marker)}},
    "code in the settings": lambda marker: {"config": Malicious(marker)},
    "code in the optimizer": lambda marker: {"optimizer": Malicious(marker)},
    "4 TB of the same number": lambda _: {"model": {ATTENTION: torch.zeros(1).expand(10**6, 10**6)}},
    "a sparse matrix": lambda _: {"model": {ATTENTION: torch.zeros(48, 16).to_sparse()}},
    "a matrix without memory": lambda _: {"model": {ATTENTION: torch.zeros(48, 16, device="meta")}},
    "no matrix": lambda _: {"model": {ATTENTION: [1, 2]}},
    "whole numbers": lambda _: {"model": {ATTENTION: torch.zeros(48, 16, dtype=torch.int64)}},
    "complex numbers": lambda _: {"model": {ATTENTION: torch.zeros(48, 16, dtype=torch.complex64)}},
    "layers that are a tensor": lambda _: {"model_args": {"n_layer": torch.ones(5)}},
    "bias that is a tensor": lambda _: {"model_args": {"bias": torch.ones(5)}},
    "a shape without end": lambda _: {"model_args": {"n_embd": 10**18}},
    "dropout that is a text": lambda _: {"model_args": {"dropout": "0.1"}},
    "a list for the weights": lambda _: {"model": [1]},
    "a number for the shape": lambda _: {"model_args": 5},
}


@pytest.mark.parametrize("how", NANOGPT)
def test_a_checkpoint_of_nanogpt(how: str, tmp_path: Path) -> None:
    path = nanogpt(tmp_path / "ckpt.pt", **NANOGPT[how](tmp_path / "ran"))
    assert attempt(path, tmp_path, "import").startswith("refused: ")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ckpt.pt-imported").exists()
