"""The figures by which samplers are judged. Less is better everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import wilcoxon


__all__ = ["mean_ranks", "one_sided_wilcoxon", "trials_to_reach"]


def mean_ranks(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return every sampler's mean rank, 1 the best; equal values share the mean of their ranks.

    Args:
        values: Sampler → (n,) values; position k is the same seed for every sampler.
    """
    table = np.array(list(values.values()))
    ranks = rankdata(table, axis=0).mean(axis=1)
    return dict(zip(values, (float(rank) for rank in ranks), strict=True))


def one_sided_wilcoxon(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return the p-value of Wilcoxon's signed-rank test that `ours` is lower, paired.

    Args:
        ours, theirs: (n,) values on the same seeds. Pairs without a difference are left out;
            where no pair differs the answer is 1.
    """
    difference = ours - theirs
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    return float(wilcoxon(difference, alternative="less").pvalue)


def trials_to_reach(curve: NDArray[np.float64], target: float) -> int | None:
    """Return how many trials it takes a curve (trials,) to come to a target, or :obj:`None`."""
    there = np.flatnonzero(curve <= target)
    return int(there[0]) + 1 if len(there) else None
