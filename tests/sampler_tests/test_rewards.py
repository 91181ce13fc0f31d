"""The reward: a bounded, noise-aware gain on a scale-free axis."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from optuna_arrl.sampler.rewards import FAILURE_REWARD
from optuna_arrl.sampler.rewards import MAX_REWARD
from optuna_arrl.sampler.rewards import rewards


eighths = st.integers(-800, 800).map(lambda i: i / 8)  # exact under the scalings below
studies = st.lists(st.tuples(eighths, st.booleans()), max_size=20)


def after(past: list[float], loss: float, **kwargs: float) -> float:
    return rewards([*past, loss], [True] * (len(past) + 1), **kwargs)[-1]


def test_by_hand() -> None:
    # Before the last trial: best 1, median of {1, 2, 4} 2, so the spread is 1.
    assert rewards([4.0, 2.0, 1.0], [True] * 3)[0] == 0.0
    assert after([4.0, 2.0, 1.0], 0.0) == pytest.approx(math.log(2.0))
    assert after([4.0, 2.0, 1.0], 1.0) == 0.0
    assert after([4.0, 2.0, 1.0], 4.0) == pytest.approx(-0.1 * 3 / 4)
    assert after([4.0, 2.0, 1.0], -100.0) == MAX_REWARD
    assert rewards([math.inf, 3.0], [False, True]) == [FAILURE_REWARD, 0.0]


def test_what_lies_within_the_noise_is_no_gain() -> None:
    past = [4.0, 2.0, 1.0]
    assert after(past, 0.9, noise=0.2) == after(past, 1.1, noise=0.2) == 0.0
    assert after(past, 0.5, noise=0.2) == pytest.approx(math.log1p(0.3))


def test_a_stopped_trial_earns_at_most_nothing_and_sets_no_record() -> None:
    losses, ran = [2.0, 1.0, 0.0, 1.5, 0.5], [True] * 5
    earned = rewards(losses, ran, [False, False, True, True, False])
    plain = rewards([2.0, 1.0, 0.5], [True] * 3)
    assert earned[2] == 0.0 and earned[3] < 0.0
    assert earned[4] == plain[-1] > 0.0


@given(studies, eighths, eighths, st.floats(0, 10))
def test_a_lower_loss_never_earns_less(
    study: list[tuple[float, bool]], one: float, other: float, noise: float
) -> None:
    losses, ran = [loss for loss, _ in study], [did for _, did in study]
    low, high = (
        rewards([*losses, loss], [*ran, True], noise=noise)[-1] for loss in sorted((one, other))
    )
    assert FAILURE_REWARD < high <= low + 1e-12 and low <= MAX_REWARD


@given(studies, st.sampled_from([0.25, 2.0, 1024.0]), eighths, st.sampled_from([0.0, 0.5]))
def test_unit_and_origin_make_no_difference(
    study: list[tuple[float, bool]], unit: float, origin: float, noise: float
) -> None:
    losses, ran = [loss for loss, _ in study], [did for _, did in study]
    moved = [unit * loss + origin for loss in losses]
    assert rewards(moved, ran, noise=unit * noise) == pytest.approx(
        rewards(losses, ran, noise=noise)
    )
