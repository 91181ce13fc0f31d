"""How far a study's scores can be trusted: its best trial, its baseline, the noise of a repeat."""

from __future__ import annotations

from collections import defaultdict
import copy
import json
import math
import statistics
from typing import TYPE_CHECKING

from optuna.study import StudyDirection
from optuna.trial import TrialState

from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import measured_noise
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REUSED_FROM_KEY


if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


__all__ = ["baseline", "best", "repeat_noise"]

# Fewer repeats than this say too little: a standard deviation from one pair of runs is below a
# quarter of the true one in a fifth of all cases, from three degrees of freedom in a fiftieth.
_MIN_DEGREES_OF_FREEDOM = 3
# With no repeats at all, noise is taken to be this part of the robust spread of the scores. In the
# published 126-run AutoResearch log the two differ by a factor of 20 to 50.
_NOISE_OF_SPREAD = 0.05
# Interquartile range of the standard normal distribution.
_NORMAL_IQR = 1.349


def best(study: Study) -> FrozenTrial:
    """Return the best trial that really ran to its score.

    Unlike :attr:`optuna.study.Study.best_trial` this leaves out every trial whose value is not a
    score: pruned ones, and those that failed and carry a penalty as their value. A trial without
    an outcome (a study that another objective made) counts when it is complete and feasible. Of
    equal trials the first is returned.

    Args:
        study:
            A single-objective study, minimised or maximised.

    Returns:
        A copy of the best trial.

    Raises:
        ValueError:
            When the study has several objectives, or no trial that completed.

    Example:

        .. code-block:: python

            study = optuna.load_study(study_name="train", storage="sqlite:///arrl.db")
            print(best(study).value)
    """
    scored = scored_trials(study)
    if not scored:
        raise ValueError(f"Study '{study.study_name}' has no completed trial yet.")
    sign = _sign(study)
    # `min` keeps the first of equals, and trials come in order of number.
    return copy.deepcopy(min(scored, key=lambda trial: sign * _value(trial)))


def baseline(study: Study) -> FrozenTrial | None:
    """Return a copy of the trial of the unmodified script.

    Returns:
        The first baseline that ran to a score, or :obj:`None` when none has.

    Raises:
        ValueError:
            When the study has several objectives.
    """
    for trial in scored_trials(study):
        if trial.system_attrs.get(BASELINE_KEY):
            return copy.deepcopy(trial)
    return None


def repeat_noise(study: Study) -> float:
    """Return by how much a score moves when the same edit runs again.

    Three sources, the first that has an answer:

    1. the profile in the study's manifest, whose noise was measured on repeats of the baseline;
    2. exact repeats in the study: the pooled standard deviation of trials with equal parameters,
       when they leave at least three degrees of freedom (a score taken over from an earlier trial
       is no repeat);
    3. one twentieth of the scores' robust spread (interquartile range over 1.349). It is a guess.

    Args:
        study:
            A single-objective study.

    Returns:
        One standard deviation, in the unit of the objective (bits per byte for a training
        script). It is 0.0 for a study without scores and where repeats agree exactly.

    Raises:
        ValueError:
            When the study has several objectives.
    """
    trials = scored_trials(study)
    measured = measured_noise(study)
    if measured > 0:
        return measured
    repeated = _noise_of_repeats(trials)
    if repeated is not None:
        return repeated
    return _NOISE_OF_SPREAD * spread(trials)


def scored_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials whose value is a score, in order of number (not copies: do not change).

    Args:
        study:
            A single-objective study.

    Raises:
        ValueError:
            When the study has several objectives.
    """
    if len(study.directions) != 1:
        raise ValueError(
            f"Study '{study.study_name}' has {len(study.directions)} objectives; "
            "only single-objective studies have a best trial."
        )
    return [trial for trial in finished_trials(study) if is_scored(trial)]


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Return complete and pruned trials in order of number (not copies: do not change).

    Trials that the machine failed (``FAIL``) are left out: they say nothing about an edit.
    """
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def is_scored(trial: FrozenTrial) -> bool:
    """Tell whether a trial's value is a score: not a penalty, not an early stop."""
    if trial.state != TrialState.COMPLETE:
        return False
    outcome = trial.user_attrs.get(OUTCOME_KEY)
    if outcome is not None:
        return bool(outcome == Outcome.COMPLETE.value)
    return all(constraint <= 0 for constraint in trial.constraints.values())


def spread(trials: list[FrozenTrial]) -> float:
    """Return the robust standard deviation (interquartile range / 1.349) of trials' values.

    It is 0.0 for fewer than two trials, in the unit of the objective otherwise.
    """
    values = [_value(trial) for trial in trials if math.isfinite(_value(trial))]
    if len(values) < 2:
        return 0.0
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / _NORMAL_IQR


def _noise_of_repeats(trials: list[FrozenTrial]) -> float | None:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if REUSED_FROM_KEY not in trial.user_attrs and math.isfinite(_value(trial)):
            groups[json.dumps(trial.params, sort_keys=True, default=repr)].append(_value(trial))
    repeats = [values for values in groups.values() if len(values) > 1]
    degrees = sum(len(values) - 1 for values in repeats)
    if degrees < _MIN_DEGREES_OF_FREEDOM:
        return None
    squares = sum((len(values) - 1) * statistics.variance(values) for values in repeats)
    return math.sqrt(squares / degrees)


def _sign(study: Study) -> float:
    """Return the factor that makes the smaller value the better one."""
    return -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # holds for every COMPLETE trial of one objective
    return trial.value
