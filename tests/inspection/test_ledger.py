"""The parameter ledger against torch's own counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt2 import GPT2
from gpt2.inspection import parameter_ledger


def test_the_ledger_counts_what_is_there_and_what_is_computed(model: GPT2) -> None:
    ledger = parameter_ledger(model)
    assert ledger.check is not None
    assert ledger.check.ok
    assert ledger.total == sum(parameter.numel() for parameter in model.parameters())
    assert ledger.bytes == sum(parameter.nbytes for parameter in model.parameters())
    assert {entry.name.format(l=1) for entry in ledger.entries if entry.name} | {
        name.replace("h.0.", "h.1.").replace("h.2.", "h.1.")
        for name in (name.removeprefix("transformer.") for name, _ in model.named_parameters())
    } == {entry.name.format(l=1) for entry in ledger.entries if entry.name}
    written_out = GPT2(model.config, "reference")
    time = model.config.context_length
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        written_out(torch.zeros(1, time, dtype=torch.long))
    # Written out, attention computes the masked half as well.
    masked = ledger.by_part("flops")["attention: scores, mixing"]
    assert counter.get_total_flops() / time == ledger.flops + masked
    assert sum(ledger.by_part("count").values()) == ledger.total


def test_a_parameter_that_the_ledger_does_not_know_breaks_its_check(model: GPT2) -> None:
    other = GPT2(model.config)
    other.transformer.register_parameter("extra", torch.nn.Parameter(torch.zeros(3)))
    ledger = parameter_ledger(other)
    assert ledger.check is not None
    assert not ledger.check.ok


def test_half_precision_takes_half_the_bytes(model: GPT2) -> None:
    half = GPT2(model.config).to(torch.bfloat16)
    assert parameter_ledger(half).bytes * 2 == parameter_ledger(model).bytes
    assert "MB" in parameter_ledger(half).summary
    assert parameter_ledger(half).flops == pytest.approx(parameter_ledger(model).flops)
