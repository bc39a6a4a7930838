from pathlib import Path

import pytest

from tests.faults.harness import PATIENCE, TINY, hashes, start, train_in

STEPS = 40


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for all; set before the fork server starts, which hands it on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield  # pyright: ignore


@pytest.fixture(scope="session")
def options() -> dict[str, object]:
    """Settings of the runs that are broken off: a checkpoint at every fourth step."""
    return {**TINY, "steps": STEPS, "save_every": 4}


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, options: dict[str, object]) -> dict[str, str]:
    """Hashes of the run that nobody disturbed."""
    folder: Path = tmp_path_factory.mktemp("reference") / "run"
    process = start(train_in, str(folder), options)
    process.join(PATIENCE)
    assert process.exitcode == 0
    return hashes(folder)
