"""The learning rate over a run, as pure functions of how far the run has come."""

import math


def learning_rate_factor(
    progress: float, warmup: float, decay: str = "linear", hold: float = 0.0, floor: float = 0.0
) -> float:
    """Factor on the learning rate at `progress`.

    Rises linearly from 0 during the warm-up, stays at 1, and falls to `floor` at the end.

    Args:
        progress: share of the run that is done, in [0, 1].
        warmup: share of the run spent rising.
        decay: "linear", "cosine" or "constant".
        hold: share of the run after the warm-up during which the rate stays at 1 before it decays.
        floor: factor at the end.
    """
    if progress < warmup:
        return progress / warmup
    start = min(1.0, warmup + hold)
    if decay == "constant" or progress <= start:
        return 1.0
    done = min(1.0, (progress - start) / (1.0 - start))
    shape = 1.0 - done if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return floor + (1.0 - floor) * shape
