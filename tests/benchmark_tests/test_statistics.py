"""Ranks, tests and trials to reach, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.samplers.statistics import mean_ranks
from benchmarks.samplers.statistics import one_sided_wilcoxon
from benchmarks.samplers.statistics import trials_to_reach


def test_mean_ranks_share_ties() -> None:
    # Ranks by seed: a 1, 1.5, 3; b 2, 1.5, 1; c 3, 3, 2.
    values = {
        "a": np.array([0.1, 0.5, 9.0]),
        "b": np.array([0.2, 0.5, 1.0]),
        "c": np.array([0.3, 0.7, 2.0]),
    }
    assert mean_ranks(values) == pytest.approx({"a": 5.5 / 3, "b": 4.5 / 3, "c": 8 / 3})


def test_wilcoxon_of_five_wins_is_one_in_thirty_two() -> None:
    # All five signs negative: one of the 2^5 equally likely patterns.
    theirs = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    ours = theirs - np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert one_sided_wilcoxon(ours, theirs) == pytest.approx(1 / 32)
    assert one_sided_wilcoxon(theirs, ours) == pytest.approx(1.0)


def test_wilcoxon_counts_sizes_not_only_signs() -> None:
    # Differences -1, -2, -3, +4: W+ = 4. Of 16 sign patterns those with W+ <= 4 are {}, 1, 2, 3,
    # 4, 1+2, 1+3: seven.
    assert one_sided_wilcoxon(np.array([-1.0, -2.0, -3.0, 4.0]), np.zeros(4)) == pytest.approx(
        7 / 16
    )


def test_wilcoxon_leaves_equal_pairs_out() -> None:
    ours = np.array([1.0, 1.0, 0.9, 0.8, 0.7])
    assert one_sided_wilcoxon(ours, np.ones(5)) == pytest.approx(1 / 8)
    assert one_sided_wilcoxon(np.ones(5), np.ones(5)) == 1.0


def test_trials_are_counted_from_one() -> None:
    curve = np.array([5.0, 4.0, 4.0, 2.0])
    assert trials_to_reach(curve, 5.0) == 1
    assert trials_to_reach(curve, 4.0) == 2
    assert trials_to_reach(curve, 2.5) == 4
    assert trials_to_reach(curve, 1.0) is None
