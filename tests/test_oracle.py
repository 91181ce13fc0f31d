from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import datetime
import logging
from pathlib import Path
from typing import Any
import warnings

import optuna
from optuna.trial import create_trial
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
import pytest

from optuna_arrl.oracle import Convergence
from optuna_arrl.oracle import Evidence
from optuna_arrl.oracle import MaxSeconds
from optuna_arrl.oracle import MaxTrials
from optuna_arrl.oracle import TerminationOracle
from optuna_arrl.trajectory import ACTION_KEY
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import STOPPED_KEY


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _trial(
    value: float | None,
    *,
    expected_gain: float | None = None,
    outcome: Outcome | None = None,
    state: TrialState = TrialState.COMPLETE,
) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        user_attrs={} if outcome is None else {OUTCOME_KEY: outcome.value},
        system_attrs=(
            {} if expected_gain is None else {ACTION_KEY: {"expected_gain": expected_gain}}
        ),
    )


def _study(
    *trials: FrozenTrial, noise: float | None = 0.1, direction: Any = "minimize"
) -> optuna.Study:
    study = optuna.create_study(direction=direction)
    if noise is not None:
        study._storage.set_study_system_attr(
            study._study_id, MANIFEST_KEY, {"profile": {"repeat_noise": noise}}
        )
    study.add_trials(trials)
    return study


def _always(study: optuna.Study) -> Evidence:
    return Evidence(rule="always", message="It is enough.", figures={"one": 1})


def _never(study: optuna.Study) -> None:
    return None


def _x(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


# --- Convergence -----------------------------------------------------------------------------


def test_study_at_a_standstill_has_converged() -> None:
    # Noise 0.1: a gain of 0.15 in the window is within twice the noise.
    evidence = Convergence(window=3)(_study(*map(_trial, [2.0, 1.0, 1.4, 0.85, 1.2])))
    assert evidence is not None
    assert evidence.rule == "convergence"
    assert evidence.figures == pytest.approx({"window": 3, "gain": 0.15, "noise": 0.1})


def test_gain_beyond_noise_keeps_a_study_going() -> None:
    assert Convergence(window=3)(_study(*map(_trial, [2.0, 1.0, 1.4, 0.75, 1.2]))) is None


def test_standstill_is_judged_in_the_direction_of_the_study() -> None:
    worse = _study(*map(_trial, [1.0, 0.5, 0.4, 0.3]), direction="maximize")
    better = _study(*map(_trial, [1.0, 0.5, 1.4, 0.3]), direction="maximize")
    assert Convergence(window=3)(worse) is not None
    assert Convergence(window=3)(better) is None


def test_study_shorter_than_window_has_not_converged() -> None:
    assert Convergence(window=3)(_study(*map(_trial, [1.0, 1.0]))) is None


def test_first_score_inside_window_is_a_gain() -> None:
    crash = _trial(FAILURE_BPB, outcome=Outcome.CRASH)
    scored = _trial(1.0, outcome=Outcome.COMPLETE)
    assert Convergence(window=2)(_study(crash, crash, scored)) is None
    assert Convergence(window=2)(_study(scored, crash, crash)) is not None


def test_machine_failures_are_not_part_of_the_window() -> None:
    failed = _trial(None, state=TrialState.FAIL)
    study = _study(_trial(1.0), failed, failed, failed)
    assert Convergence(window=2)(study) is None


def test_pruned_trials_are_part_of_the_window_but_no_gain() -> None:
    pruned = _trial(0.1, state=TrialState.PRUNED)
    assert Convergence(window=2)(_study(_trial(1.0), pruned, pruned)) is not None


def test_policy_that_expects_gain_keeps_a_study_going() -> None:
    hopeful = [_trial(1.0, expected_gain=gain) for gain in (0.0, 0.3, 0.3, 0.0, 0.3)]
    assert Convergence(window=4)(_study(*hopeful)) is None


def test_policy_without_hope_ends_a_standstill() -> None:
    # One lone hope among four does not move the median (0.025); threshold is the noise, 0.1.
    tired = [_trial(1.0, expected_gain=gain) for gain in (9.0, 0.0, 0.9, 0.02, 0.03)]
    evidence = Convergence(window=4)(_study(*tired))
    assert evidence is not None
    assert evidence.figures["expected_gain"] == pytest.approx(0.025)
    assert evidence.figures["threshold"] == 0.1


def test_threshold_can_be_given() -> None:
    tired = _study(*[_trial(1.0, expected_gain=0.05) for _ in range(3)])
    assert Convergence(window=2, threshold=0.05)(tired) is not None
    assert Convergence(window=2, threshold=0.04)(tired) is None


def test_deterministic_study_converges_although_expected_gain_stays_positive() -> None:
    values = [float(value) for value in range(9, 0, -1)] + [1.0] * 3
    study = _study(*[_trial(value, expected_gain=1e-6) for value in values], noise=0.0)
    assert Convergence(window=3)(study) is not None


@pytest.mark.parametrize("kwargs", [{"window": 0}, {"threshold": -1.0}])
def test_convergence_refuses_nonsense(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}`"):
        Convergence(**kwargs)


# --- MaxTrials and MaxSeconds ----------------------------------------------------------------


def test_max_trials_counts_finished_trials_but_not_machine_failures() -> None:
    study = _study(
        _trial(1.0),
        _trial(None, state=TrialState.FAIL),
        _trial(1.0, state=TrialState.PRUNED),
    )
    assert MaxTrials(3)(study) is None
    study.add_trial(_trial(FAILURE_BPB, outcome=Outcome.CRASH))
    evidence = MaxTrials(3)(study)
    assert evidence is not None
    assert evidence.figures == {"finished": 3, "limit": 3}


def test_max_seconds_adds_up_durations_and_skips_pauses_and_machine_failures() -> None:
    study = _study()
    start = datetime.datetime(2026, 1, 1)
    for day, seconds, state in [
        (0, 40, TrialState.COMPLETE),
        (1, 50, TrialState.PRUNED),
        (2, 90_000, TrialState.FAIL),
    ]:
        trial = _trial(None if state == TrialState.FAIL else 1.0, state=state)
        trial.datetime_start = start + datetime.timedelta(days=day)
        trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=seconds)
        study.add_trial(trial)
    assert MaxSeconds(91)(study) is None
    evidence = MaxSeconds(90)(study)
    assert evidence is not None
    assert evidence.figures == {"seconds": 90, "limit": 90}


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="`n`"):
        MaxTrials(0)
    with pytest.raises(ValueError, match="`seconds`"):
        MaxSeconds(0)


# --- the oracle ------------------------------------------------------------------------------


def test_oracle_ends_optimize_and_says_why() -> None:
    study = _study()
    study.optimize(_x, n_trials=10, callbacks=[TerminationOracle([MaxTrials(3)])])
    assert len(study.trials) == 3
    stopped = study.user_attrs[STOPPED_KEY]
    assert stopped["rule"] == "max_trials"
    assert stopped["figures"] == {"finished": 3.0, "limit": 3.0}
    assert stopped["finished"] == 3


def test_any_rule_ends_the_study() -> None:
    oracle = TerminationOracle([_never, _always])
    evidence = oracle.evidence(_study())
    assert evidence is not None
    assert evidence.rule == "always"
    assert TerminationOracle([_never]).evidence(_study()) is None


def test_default_oracle_waits_for_convergence() -> None:
    study = _study(*[_trial(1.0) for _ in range(30)])
    oracle = TerminationOracle()
    assert oracle.evidence(study) is None  # 30 trials of window, none before it
    study.add_trial(_trial(1.0))
    evidence = oracle.evidence(study)
    assert evidence is not None
    assert evidence.rule == "convergence"


def test_asking_for_evidence_writes_nothing() -> None:
    study = _study()
    assert TerminationOracle([_always]).evidence(study) is not None
    assert STOPPED_KEY not in study.user_attrs


def test_oracle_of_second_worker_counts_trials_of_the_first(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    first = optuna.create_study(storage=storage, study_name="s")
    second = optuna.load_study(storage=storage, study_name="s")
    first.optimize(_x, n_trials=4)
    second.optimize(_x, callbacks=[TerminationOracle([MaxTrials(5)])])
    assert len(first.trials) == 5
    assert first.user_attrs[STOPPED_KEY]["finished"] == 5  # readable by the other, as JSON


def _raises(study: optuna.Study) -> Evidence | None:
    raise RuntimeError("no such luck")


def _answers_true(study: optuna.Study) -> Any:
    return True


@pytest.mark.parametrize(
    ("rule", "complaint"), [(_raises, "no such luck"), (_answers_true, "returned True")]
)
def test_broken_rule_warns_once_and_does_not_end_the_study(
    rule: Callable[[optuna.Study], Any], complaint: str
) -> None:
    study = _study()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(_x, n_trials=10, callbacks=[TerminationOracle([rule, MaxTrials(4)])])
    assert len(study.trials) == 4
    messages = [str(w.message) for w in caught if complaint in str(w.message)]
    assert len(messages) == 1
    assert rule.__name__ in messages[0]


def test_several_objectives_do_not_break_the_run() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.warns(UserWarning, match="Convergence"):
        study.optimize(lambda _: (0.0, 1.0), n_trials=2, callbacks=[TerminationOracle()])
    assert len(study.trials) == 2


def test_oracle_logs_one_sentence() -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("optuna.optuna_arrl.oracle")
    logger.addHandler(handler)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    study = optuna.create_study(study_name="mine")
    try:
        study.optimize(_x, callbacks=[TerminationOracle([MaxTrials(1)])])
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == [
        "Study 'mine' stops: Finished trials reached the limit of 1."
    ]


def test_oracle_without_rules_is_refused() -> None:
    empty: Sequence[Any] = []
    with pytest.raises(ValueError, match="at least one rule"):
        TerminationOracle(empty)
