"""The preparation rows on little text: every tool gives the same ids."""

import pytest

from benchmarks.measure import run
from benchmarks.rows import preparation


@pytest.mark.parametrize("row", [preparation.in_memory(1), preparation.from_file(1)], ids=lambda row: row.name)
def test_every_tool_gives_the_same_ids(row) -> None:
    measured = run(row, 1, lambda line: None)
    assert sum(bool(figure.rounds) for figure in measured.figures) >= 3
    assert "is the same" in measured.checked
