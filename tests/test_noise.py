from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
import pytest

from optuna_arrl.noise import best
from optuna_arrl.noise import repeat_noise
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REUSED_FROM_KEY


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _trial(
    value: float | None,
    *,
    x: float = 0.0,
    outcome: Outcome | None = None,
    state: TrialState = TrialState.COMPLETE,
    **kwargs: Any,
) -> FrozenTrial:
    attrs = kwargs.pop("user_attrs", {})
    if outcome is not None:
        attrs = attrs | {OUTCOME_KEY: outcome.value}
    return create_trial(
        state=state,
        value=value,
        params={"x": x},
        distributions={"x": FloatDistribution(-1e9, 1e9)},
        user_attrs=attrs,
        **kwargs,
    )


def _study(*trials: FrozenTrial, direction: Any = "minimize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study


def test_best_is_lowest_completed_score() -> None:
    study = _study(
        _trial(2.0, outcome=Outcome.COMPLETE),
        _trial(1.5, outcome=Outcome.COMPLETE),
        _trial(1.7, outcome=Outcome.COMPLETE),
    )
    assert best(study).number == 1


def test_pruned_trial_is_never_best() -> None:
    study = _study(
        _trial(2.0, outcome=Outcome.COMPLETE),
        _trial(0.5, outcome=Outcome.PRUNED, state=TrialState.PRUNED),
    )
    assert best(study).number == 0


@pytest.mark.parametrize(
    "outcome",
    [Outcome.CRASH, Outcome.OOM, Outcome.TIMEOUT, Outcome.INVALID_EDIT, Outcome.REJECTED],
)
def test_penalty_is_no_score_even_where_it_would_win(outcome: Outcome) -> None:
    study = _study(
        _trial(0.9, outcome=Outcome.COMPLETE),
        _trial(FAILURE_BPB, outcome=outcome),
        direction="maximize",
    )
    assert best(study).number == 0


def test_best_of_maximised_study_is_highest() -> None:
    assert best(_study(_trial(1.0), _trial(3.0), _trial(2.0), direction="maximize")).number == 1


def test_trials_of_another_objective_count_when_feasible() -> None:
    study = _study(_trial(1.0, constraints={"c": 0.5}), _trial(2.0, constraints={"c": 0.0}))
    assert best(study).number == 1


def test_first_of_equal_trials_is_best() -> None:
    assert best(_study(_trial(1.0), _trial(0.5), _trial(0.5))).number == 1


def test_best_is_a_copy() -> None:
    study = _study(_trial(1.0))
    best(study).user_attrs["mine"] = 1
    assert best(study).user_attrs == {}


@pytest.mark.parametrize(
    "trials",
    [
        (),
        (_trial(None, state=TrialState.FAIL),),
        (_trial(1.0, state=TrialState.PRUNED), _trial(FAILURE_BPB, outcome=Outcome.CRASH)),
    ],
)
def test_study_without_completed_trial_has_no_best(trials: tuple[FrozenTrial, ...]) -> None:
    with pytest.raises(ValueError, match="no completed trial yet"):
        best(_study(*trials))


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="2 objectives"):
        best(study)
    with pytest.raises(ValueError, match="2 objectives"):
        repeat_noise(study)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.booleans())
def test_best_equals_optimum_of_scores(values: list[float], maximise: bool) -> None:
    study = _study(*map(_trial, values), direction="maximize" if maximise else "minimize")
    assert best(study).value == (max(values) if maximise else min(values))


def test_noise_of_measured_profile_wins() -> None:
    study = _study(*[_trial(value, x=1.0) for value in (1.0, 2.0, 3.0, 4.0)])
    study._storage.set_study_system_attr(
        study._study_id, MANIFEST_KEY, {"profile": {"name": "cpu", "repeat_noise": 0.0042}}
    )
    assert repeat_noise(study) == 0.0042


def test_noise_of_repeats_is_pooled_standard_deviation() -> None:
    # By hand: squares 2 (of 1, 2, 3; two degrees) and 8 (of 10, 14; one degree): sqrt(10 / 3).
    values = [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (10.0, 2.0), (14.0, 2.0), (99.0, 3.0)]
    study = _study(*[_trial(value, x=x) for value, x in values])
    assert repeat_noise(study) == pytest.approx(math.sqrt(10 / 3))


def test_score_taken_over_is_no_repeat() -> None:
    reused = [_trial(1.0, x=1.0, user_attrs={REUSED_FROM_KEY: 0}) for _ in range(4)]
    study = _study(_trial(1.0, x=1.0), *reused, _trial(2.0, x=2.0), _trial(3.0, x=3.0))
    assert repeat_noise(study) > 0  # from the spread; the five equal scores are one measurement


def test_failed_repeats_are_no_noise() -> None:
    crashed = [_trial(FAILURE_BPB, x=1.0, outcome=Outcome.CRASH) for _ in range(3)]
    scored = [_trial(1.0, x=1.0, outcome=Outcome.COMPLETE) for _ in range(4)]
    assert repeat_noise(_study(*crashed, *scored)) == 0.0


def test_noise_without_repeats_is_a_twentieth_of_the_spread() -> None:
    # Quartiles of 0 … 4 are 1 and 3.
    study = _study(*[_trial(float(x), x=float(x)) for x in range(5)])
    assert repeat_noise(study) == pytest.approx(0.05 * 2 / 1.349)


def test_one_wild_score_hardly_moves_the_spread() -> None:
    tame = [_trial(float(x), x=float(x)) for x in range(20)]
    noise = repeat_noise(_study(*tame))
    assert repeat_noise(_study(*tame, _trial(1e6, x=-1.0))) == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("trials", [(), (_trial(1.0),)])
def test_noise_of_study_that_says_nothing_is_zero(trials: tuple[FrozenTrial, ...]) -> None:
    assert repeat_noise(_study(*trials)) == 0.0
