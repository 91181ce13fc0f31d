"""The reward of a trial: noise-aware gain over the best so far, on a scale-free axis.

With d the best loss so far less the trial's own, shrunk towards 0 by the noise, and s the median
less the best of the losses so far:

    d ≥ 0:  r = min(log(1 + d / s), 2)          a fall of the gap by one spread is worth log 2
    d < 0:  r = -0.1 |d| / (s + |d|)            in (-0.1, 0): trying costs little
    did not run:  r = -0.2                      below every trial that ran

Rewards never fall as the loss falls, and are the same for losses a y + b, any a > 0 (with the
noise times a). The first trial that runs sets the axis and earns 0. The paper's sign and novelty
terms, wrong as printed, are not used.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
import math


__all__ = ["FAILURE_REWARD", "MAX_REWARD", "rewards"]

FAILURE_REWARD = -0.2
"""Reward of a crash or a rejected edit: below that of every trial that ran."""

MAX_REWARD = 2.0
"""No gain is worth more: that of exp(2) - 1 = 6.4 spreads."""

_WORST_COMPLETED = -0.1


def rewards(
    losses: Sequence[float],
    ran: Sequence[bool],
    stopped: Sequence[bool] | None = None,
    noise: float = 0.0,
) -> list[float]:
    """Return the reward of every trial, in the order they ended.

    Args:
        losses: n losses, to be minimised; for a trial that was stopped early its forecast mean;
            ignored where `ran` is False.
        ran: n flags, False for crash, oom, timeout, invalid and rejected edits.
        stopped: n flags, True for early-stopped trials: they earn at most 0 and never set the
            best so far.
        noise: Standard deviation of a repeated measurement, in the unit of the losses.

    Returns:
        n rewards in [FAILURE_REWARD, MAX_REWARD].
    """
    earned: list[float] = []
    completed: list[float] = []  # losses so far, sorted
    for i, (loss, did_run) in enumerate(zip(losses, ran, strict=True)):
        early = stopped is not None and stopped[i]
        if not did_run:
            earned.append(FAILURE_REWARD)
            continue
        gain = _gain(loss, completed, noise)
        earned.append(min(0.0, gain) if early else gain)
        if not early:
            bisect.insort(completed, loss)
    return earned


def _gain(loss: float, completed: Sequence[float], noise: float) -> float:
    """Return the reward of a loss after the sorted losses of trials that completed."""
    if not completed:
        return 0.0
    best, median = completed[0], completed[(len(completed) - 1) // 2]
    # Halves, because the difference of two floats may be none.
    distance = max(abs(0.5 * best - 0.5 * loss) - 0.5 * noise, 0.0)
    if distance == 0.0:
        return 0.0
    spread = 0.5 * median - 0.5 * best
    if spread == 0.0:  # all alike so far: this trial's own distance is the only measure
        spread = max(0.5 * completed[-1] - 0.5 * best, distance)
    if loss < best:
        return min(math.log1p(distance / spread), MAX_REWARD)
    return _WORST_COMPLETED * distance / (spread + distance)
