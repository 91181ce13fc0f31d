"""Actions as JSON, what trials teach, and the trajectory of a study."""

from __future__ import annotations

import itertools
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import create_trial
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
import pytest

from optuna_arrl.trajectory import Action
from optuna_arrl.trajectory import ACTION_KEY
from optuna_arrl.trajectory import from_ranges
from optuna_arrl.trajectory import load_trajectory
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import MAX_ACTION_BYTES
from optuna_arrl.trajectory import MEMORY_KEY
from optuna_arrl.trajectory import observe
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import RAN_CONSTRAINT
from optuna_arrl.trajectory import SECONDS_KEY
from optuna_arrl.trajectory import to_ranges
from optuna_arrl.trajectory import WORKER_KEY


def action(**changes: object) -> Action:
    fields: dict[str, object] = {
        "index": 3,
        "edit": {"x": 0.1},
        "parent": 0,
        "kind": "local_move",
        "log_prob": -1.0986122886681098,
        "value": 0.25,
        "expected_gain": 0.125,
        "policy_version": 2,
        "seed": 4294967295,
        "unseen": ((1, 1), (4, 6)),
        "pending": ((1, 1), (5, 6)),
        "generator": 1,
        "candidates": "0123456789abcdef",
        "space": "fedcba9876543210",
    }
    return Action(**{**fields, **changes})  # type: ignore[arg-type]


def trial(
    value: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    outcome: Outcome | None = None,
    constraints: dict[str, float] | None = None,
    **attrs: object,
) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs={} if outcome is None else {OUTCOME_KEY: outcome.value},
        system_attrs=dict(attrs),
        constraints=constraints or {},
    )


def test_action_survives_json_bit_for_bit() -> None:
    encoded = json.loads(json.dumps(action().encode()))
    assert Action.decode({ACTION_KEY: encoded}) == action()
    del encoded["pending"]  # as it was stored before there were any
    assert Action.decode({ACTION_KEY: encoded}) == action(pending=())


def test_action_never_exceeds_4_kb() -> None:
    edit = {f"a_rather_long_slot_name_{i}": 0.1234567890123 for i in range(200)}
    encoded = action(edit=edit).encode()
    assert len(json.dumps(encoded)) <= MAX_ACTION_BYTES
    assert encoded["edit"] is None
    assert Action.decode({ACTION_KEY: encoded}) == action(edit=None)


def test_choices_that_are_no_json_are_written_as_text() -> None:
    encoded = action(edit={"c": (1, 2), "d": math.inf, "e": None, "f": True}).encode()
    assert encoded["edit"] == {"c": "(1, 2)", "d": "inf", "e": None, "f": True}


@pytest.mark.parametrize("stored", [None, 7, {}, {"index": 1}])
def test_unknown_action_is_no_action(stored: object) -> None:
    assert Action.decode({ACTION_KEY: stored}) is None
    assert Action.decode({}) is None


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_exactly_the_numbers(numbers: set[int]) -> None:
    ranges = to_ranges(numbers)
    assert from_ranges(ranges) == tuple(sorted(numbers))
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))


def seen(*trials: FrozenTrial) -> list[FrozenTrial]:
    for number, one in enumerate(trials):
        one.number = number
    return list(trials)


@pytest.mark.parametrize(
    ("one", "ran"),
    [
        (trial(1.0), True),
        (trial(1.0, outcome=Outcome.COMPLETE), True),
        (trial(8.0, outcome=Outcome.CRASH), False),
        (trial(8.0, outcome=Outcome.REJECTED), False),
        (trial(8.0, constraints={RAN_CONSTRAINT: 1.0}), False),
        (trial(1.0, constraints={"mine": 0.5, RAN_CONSTRAINT: -1.0}), False),
        (trial(1.0, constraints={"mine": 0.0}), True),
        (trial(math.inf), False),
        (trial(state=TrialState.FAIL), False),
        (trial(state=TrialState.FAIL, outcome=Outcome.OOM, **{WORKER_KEY: {}}), False),
    ],
)
def test_whether_a_trial_ran(one: FrozenTrial, ran: bool) -> None:
    (observation,) = observe(seen(one), StudyDirection.MINIMIZE)
    assert observation.ran is ran
    assert math.isfinite(observation.loss) is ran


def test_what_the_machine_did_teaches_nothing() -> None:
    machine = trial(state=TrialState.FAIL, **{WORKER_KEY: {"pid": 1}})
    assert observe(seen(machine, trial(state=TrialState.RUNNING)), StudyDirection.MINIMIZE) == []


def test_maximised_values_are_negated() -> None:
    losses = [o.loss for o in observe(seen(trial(1.0), trial(3.0)), StudyDirection.MAXIMIZE)]
    assert losses == [-1.0, -3.0]


def test_a_pruned_trial_is_worse_than_three_quarters_of_the_scores_before_it() -> None:
    # Its intermediate value, 0.01, would be the best of all: it is no score.
    trials = seen(
        trial(state=TrialState.PRUNED, value=0.01),
        *(trial(value) for value in (5.0, 1.0, 2.0, 3.0, 4.0)),
        trial(state=TrialState.PRUNED, value=0.01),
        trial(0.5),
    )
    first, *_, pruned, _ = observe(trials, StudyDirection.MINIMIZE)
    assert first.ran and first.pruned and first.loss == math.inf
    assert pruned.ran and pruned.pruned
    assert pruned.loss == math.nextafter(4.0, math.inf)


def test_trajectory_of_four_trials_by_hand() -> None:
    study = optuna.create_study()
    study._storage.set_study_system_attr(
        study._study_id, MANIFEST_KEY, {"profile": {"repeat_noise": 0.0}}
    )
    study.add_trial(trial(2.0))
    one = action(unseen=(), parent=0, value=0.5, edit={"x": 0.1, "y": 2})
    study.add_trial(trial(1.0, **{ACTION_KEY: one.encode()}))
    failed = trial(8.0, outcome=Outcome.OOM, **{ACTION_KEY: action(unseen=((1, 1),)).encode()})
    failed.set_user_attr(SECONDS_KEY, 12.5)
    failed.set_user_attr(MEMORY_KEY, 900.0)
    study.add_trial(failed)
    study.add_trial(trial(1.5))

    table = load_trajectory(study)

    assert table["number"].tolist() == [0, 1, 2, 3]
    assert table["outcome"].tolist() == ["complete", "complete", "oom", "complete"]
    assert table["objective"].tolist() == [2.0, 1.0, 8.0, 1.5]
    assert table["n_seen"].tolist() == [0, 1, 1, 3]  # trial 2 did not know trial 1
    np.testing.assert_equal(table["best_so_far"].to_numpy(), [np.nan, 2.0, 2.0, 1.0])
    assert table["parent"].fillna(-1).tolist() == [-1, 0, 0, -1]
    assert table["n_changed"].fillna(-1).tolist() == [-1, 2, 1, -1]
    assert table["edit"][1] == {"x": 0.1, "y": 2}
    assert table["seconds"][2] == 12.5
    assert table["memory_mb"][2] == 900.0
    # Trial 1 falls by 1 from the best, 2; with one score the fall itself is the measure: log 2.
    # Trial 2 did not run. Of the scores (1, 2), 1 is best and (lower) median: the measure is
    # 2 - 1 = 1, and trial 3 is 0.5 above the best: -0.1 × 0.5 / 1.5.
    rewards = [0.0, math.log(2), -0.2, -0.1 / 3]
    np.testing.assert_allclose(table["reward"], rewards)
    returns = [0.0, 0.0, 0.0, rewards[3]]
    for t in (2, 1, 0):
        returns[t] = rewards[t] + 0.98 * returns[t + 1]
    np.testing.assert_allclose(table["return"], returns)
    # Over trials 1 and 2, of values 0.5 and 0.25, with discount 0.98 and lambda 0.95.
    last = -0.2 - 0.25
    first = math.log(2) + 0.98 * 0.25 - 0.5 + 0.98 * 0.95 * last
    np.testing.assert_allclose(table["advantage"], [np.nan, first, last, np.nan])


def test_trajectory_of_another_sampler_has_no_actions() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
    study.ask()
    table = load_trajectory(study)
    assert table["state"].tolist() == ["COMPLETE"] * 3 + ["RUNNING"]
    assert table[["log_prob", "value", "advantage", "expected_gain"]].isna().all(axis=None)
    assert table["policy_version"].isna().all()
    assert table["reward"].notna().tolist() == [True, True, True, False]
    assert table["best_so_far"][3] == study.best_value


def test_trajectory_of_an_empty_study_has_the_same_columns() -> None:
    empty, study = optuna.create_study(), optuna.create_study()
    study.add_trial(trial(1.0))
    assert len(load_trajectory(empty)) == 0
    assert (load_trajectory(empty).dtypes == load_trajectory(study).dtypes).all()


def test_trajectory_of_several_objectives_is_refused() -> None:
    with pytest.raises(ValueError, match="2 objectives"):
        load_trajectory(optuna.create_study(directions=["minimize", "minimize"]))
