"""The storage vocabulary: every attribute key of optuna-arrl, encoded and decoded in one place."""

from __future__ import annotations

import bisect
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import fields
from enum import StrEnum
import json
import math
from typing import Any
from typing import TYPE_CHECKING

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import TrialState


if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    import pandas as pd


# What the frozen evaluation can say of a trial. Exactly one per finished trial.
class Outcome(StrEnum):
    """How a trial ended. What the *machine* did (disk full, Ctrl-C) is none: that is FAIL."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    CRASH = "crash"
    OOM = "oom"
    TIMEOUT = "timeout"
    INVALID_EDIT = "invalid_edit"
    REJECTED = "rejected"


FAILURE_BPB = 8.0
"""Value of a trial that did not complete: a uniform guess over bytes, in bits per byte."""

COMPLETED_BPB_CAP = 7.9
"""A completed score is capped here, so that every completed trial is better than every failure."""

RAN_CONSTRAINT = "arrl:ran"
"""Constraint key: -1.0 when the trial ran to a score or was pruned, 1.0 when it failed."""

# Trial user attributes: what people read.
OUTCOME_KEY = "arrl:outcome"  # Outcome.value
REASON_KEY = "arrl:reason"  # one sentence, failures only
VERIFIED_KEY = "arrl:verified"  # bool: scored by the frozen evaluation
SANDBOX_KEY = "arrl:sandbox"  # str: name of the sandbox in force
ISOLATED_KEY = "arrl:isolated"  # bool: it kept edited code from all but its box
PARENT_KEY = "arrl:parent"  # int: trial number of the edit's parent
POLICY_VERSION_KEY = "arrl:policy_version"  # int
SECONDS_KEY = "arrl:seconds"  # float: wall seconds of the whole trial
TRAIN_SECONDS_KEY = "arrl:train_seconds"  # float
MEMORY_KEY = "arrl:memory_mb"  # float: peak memory of the tree, from outside
REUSED_FROM_KEY = "arrl:reused_from"  # int: the trial that ran this edit before
RETRY_OF_KEY = "arrl:retry_of"  # int: the trial whose edit the machine lost
EDIT_HASH_KEY = "arrl:edit_hash"  # str: hash of the normalised syntax tree
# Trial system attributes: what the program reads.
ACTION_KEY = "arrl:action"  # Action, <= 4 kB
MEASUREMENT_KEY = "arrl:measurement"  # seconds by part, steps, probe evidence
CURVE_KEY = "arrl:curve"  # list of [percent of budget, training bits per byte]
WORKER_KEY = "arrl:worker"  # {"host", "boot", "pid", "started"} of the process running the trial
BASELINE_KEY = "arrl:baseline"  # bool: the unmodified script
FIXED_PARAMS_KEY = "fixed_params"  # Optuna's own, as `Study.enqueue_trial` writes it
# Study attributes.
MANIFEST_KEY = "arrl:manifest"  # system
ARTIFACTS_KEY = "arrl:artifacts"  # system: address of the artifact folder
SAMPLER_SEED_KEY = "arrl:sampler_seed"  # system
STOPPED_KEY = "arrl:stopped"  # user: which rule ended the study, with its evidence

SCORE_NAME = "val_bpb"
"""What a study's value is called where it is of a training script: validation bits per byte."""

MAX_ACTION_BYTES = 4096
"""An action's JSON is never longer: it is written once a trial, to the slowest of databases."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """The edit that a trial carries out, stored before the trial runs.

    With the finished trials it was drawn from it says all that an update needs: from `seen`,
    `seed` and the trial's number the same candidates can be drawn again, at any time, anywhere.

    Attributes:
        index:
            Which of the candidates was drawn.
        edit:
            What it changes: parameter values that differ from the parent's, all of them where
            there is no parent; None when they would not fit into 4 kB (the trial has them all).
        parent:
            Number of the trial that was edited, or None.
        kind:
            Which proposer made the candidate.
        log_prob:
            Log-probability of the candidate under exactly the distribution it was drawn from, in
            nats.
        value:
            The policy's estimate of the discounted sum of rewards from here on.
        expected_gain:
            By how much the drawn edit is expected to beat the best trial, in the unit of the
            objective; None while nothing is known.
        policy_version:
            The version of the policy that chose.
        seed:
            The sampler's seed; the draws are those of `SeedSequence([seed, trial number])`.
        unseen:
            Ranges [first, last] of trial numbers below this trial's that had not finished. Every
            other number below was finished and seen.
        pending:
            Ranges [first, last] of those among the unseen whose edits were known: they count as if
            they had come to what was expected of them.
        generator:
            Version of the code that draws candidates.
        candidates:
            Digest of the candidates.
        space:
            Digest of the search space.
    """

    index: int
    edit: dict[str, Any] | None
    parent: int | None
    kind: str
    log_prob: float
    value: float
    expected_gain: float | None
    policy_version: int
    seed: int
    unseen: tuple[tuple[int, int], ...]
    pending: tuple[tuple[int, int], ...] = ()
    generator: int
    candidates: str
    space: str

    def encode(self) -> dict[str, Any]:
        """Return the JSON value to store under :data:`ACTION_KEY`, at most 4 kB as text."""
        encoded = asdict(self)
        for name in ("unseen", "pending"):
            encoded[name] = [list(pair) for pair in getattr(self, name)]
        if self.edit is not None:
            encoded["edit"] = {name: _json_value(value) for name, value in self.edit.items()}
        if len(json.dumps(encoded)) > MAX_ACTION_BYTES:
            encoded["edit"] = None
        return encoded

    @classmethod
    def decode(cls, system_attrs: Mapping[str, Any]) -> Action | None:
        """Return the action among a trial's system attributes.

        Returns:
            None when the trial has none, or one that this version of the package does not know.
        """
        encoded = system_attrs.get(ACTION_KEY)
        if not isinstance(encoded, dict):
            return None
        encoded = {"pending": [], **encoded}  # older ones have none
        if encoded.keys() != {f.name for f in fields(cls)}:
            return None
        ranges = {name: tuple((a, b) for a, b in encoded[name]) for name in ("unseen", "pending")}
        return cls(**{**encoded, **ranges})


def to_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Return a set of numbers as sorted ranges [first, last], both ends included."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def from_ranges(ranges: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """Return the numbers in ranges [first, last], in the order of the ranges."""
    return tuple(number for first, last in ranges for number in range(first, last + 1))


def _json_value(value: Any) -> Any:
    """Return a parameter value as JSON can hold it: choices may be any object in memory."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    return repr(value)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one finished trial teaches.

    Attributes:
        trial:
            The trial.
        loss:
            To be minimised: the value, negated where the study maximises. A pruned trial has no
            score (its last intermediate value is a point of a training curve, another quantity);
            all that is known is that the pruner found it worse than the median, so it counts as
            just above the upper quartile of the scores before it. +inf where nothing is known.
        ran:
            False for a failure.
        pruned:
            True for a trial stopped early.
    """

    trial: FrozenTrial
    loss: float
    ran: bool
    pruned: bool


def observe(trials: Iterable[FrozenTrial], direction: StudyDirection) -> list[Observation]:
    """Return what finished trials teach, in order of number.

    Failures teach that the edit does not run: an outcome that says so, any violated constraint, a
    value that is not finite, and, where no outcome can be expected (any objective but
    TrainScriptObjective), an exception or NaN. What the machine did teaches nothing: such a trial
    is left out, as is one without parameters.
    """
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    scores: list[float] = []  # in ascending order
    observations: list[Observation] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        ending = _ending(trial)
        if ending is None or not trial.params:
            continue
        loss = math.inf
        if ending is Outcome.COMPLETE:
            assert trial.value is not None
            loss = sign * trial.value
            bisect.insort(scores, loss)
        elif ending is Outcome.PRUNED and scores:
            loss = math.nextafter(_upper_quartile(scores), math.inf)
        observations.append(
            Observation(
                trial=trial,
                loss=loss,
                ran=ending in (Outcome.COMPLETE, Outcome.PRUNED),
                pruned=ending is Outcome.PRUNED,
            )
        )
    return observations


def _upper_quartile(ascending: Sequence[float]) -> float:
    """Return what ``numpy.quantile(…, 0.75)`` does, of what is sorted already."""
    below, quarters = divmod(3 * (len(ascending) - 1), 4)
    lower = ascending[below]
    return lower + 0.25 * quarters * (ascending[below + 1] - lower) if quarters else lower


def _ending(trial: FrozenTrial) -> Outcome | None:
    """Return how a trial ended, CRASH for failures without an outcome; None teaches nothing."""
    if not trial.state.is_finished():
        return None
    recorded = trial.user_attrs.get(OUTCOME_KEY)
    outcome = Outcome(recorded) if recorded in {outcome.value for outcome in Outcome} else None
    if trial.state == TrialState.PRUNED:
        return Outcome.PRUNED
    if trial.state == TrialState.FAIL:
        if outcome is None and WORKER_KEY not in trial.system_attrs:
            return Outcome.CRASH
        return None if outcome in (None, Outcome.COMPLETE, Outcome.PRUNED) else outcome
    if outcome is None:
        feasible = all(constraint <= 0 for constraint in trial.constraints.values())
        outcome = Outcome.COMPLETE if feasible else Outcome.CRASH
    if outcome is Outcome.COMPLETE and not math.isfinite(trial.value or 0.0):
        return Outcome.CRASH
    return outcome


def score_name(study: Study) -> str:
    """Return what a study's value is called."""
    if MANIFEST_KEY in study._storage.get_study_system_attrs(study._study_id):
        return SCORE_NAME
    return study.metric_names[0] if study.metric_names else "value"


def measured_noise(study: Study) -> float:
    """Return the standard deviation of repeats in the study's manifest, 0.0 without one."""
    attrs = study._storage.get_study_system_attrs(study._study_id)
    profile = attrs.get(MANIFEST_KEY, {}).get("profile")
    noise = profile.get("repeat_noise") if isinstance(profile, dict) else None
    return 0.0 if noise is None else float(noise)


def observed_rewards(observations: Sequence[Observation], noise: float) -> list[float]:
    """Return the reward of every observation, in their order.

    Args:
        observations:
            All of a study's from its first trial on: a reward is a gain over the best before.
        noise:
            Standard deviation of a repeat, in the unit of the objective.
    """
    # Points upwards, as does load_trajectory's import of GAE: what a reward is belongs to the
    # learner, and is asked for here only to show it.
    from optuna_arrl.sampler.rewards import rewards

    return rewards(
        [o.loss for o in observations],
        [o.ran for o in observations],
        [o.pruned for o in observations],
        noise,
    )


def load_trajectory(study: Study) -> pd.DataFrame:
    """Return the decision process that a study is, one row a trial.

    Rewards, returns and advantages are derived here from what the storage holds; what an update
    really used is in its version's statistics. Trials of other samplers, enqueued ones and those
    of any objective have rows too, with nan where nothing was recorded.

    Args:
        study:
            A single-objective study.

    Returns:
        Rows in order of number, columns

        * the trial: `number`; `state` (Optuna's); `outcome` (`arrl:outcome`, or what can be told
          without: complete, pruned or crash; None while it runs and where the machine failed);
          `objective` (the value); `seconds` (`arrl:seconds`, else from start to end);
          `memory_mb`;
        * the state it was drawn in: `n_seen` (finished trials that it knew, or could have known);
          `best_so_far` (best score among them, in the unit of the objective);
        * the action: `kind` (which proposer); `parent` (trial number); `edit` (dict of the values
          that differ from the parent's); `n_changed`; `log_prob` in nats; `value` (the policy's
          estimate of the return); `expected_gain` (unit of the objective); `policy_version`;
        * what came of it: `reward`; `return` (discounted sum of the rewards from this trial to the
          last, of all trials that ended); `advantage` (generalised, over the trials with an
          action, nothing expected after the last).

    Raises:
        ValueError:
            When the study has several objectives.
    """
    import pandas as pd

    if len(study.directions) != 1:
        raise ValueError(
            f"Study '{study.study_name}' has {len(study.directions)} objectives; "
            "a trajectory needs a single one."
        )
    trials = study.get_trials(deepcopy=False)
    observations = observe(trials, study.direction)
    finished = np.array([t.state.is_finished() for t in trials], np.bool_)
    losses = np.full(len(trials), math.inf)
    for o in observations:
        if o.ran and not o.pruned:
            losses[o.trial.number] = o.loss
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    rows = [_row(trial, finished, losses, sign) for trial in trials]
    table = (
        pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS).set_index("number", drop=False)
    )
    rewards = observed_rewards(observations, measured_noise(study))
    numbers = [o.trial.number for o in observations]
    table.loc[numbers, "reward"] = rewards
    returns, advantages = _returns_and_advantages(rewards, table.loc[numbers, "value"].to_numpy())
    table.loc[numbers, "return"] = returns
    table.loc[numbers, "advantage"] = advantages
    return table.reset_index(drop=True)


_COLUMNS = {
    "number": "int64",
    "state": "object",
    "outcome": "object",
    "objective": "float64",
    "seconds": "float64",
    "memory_mb": "float64",
    "n_seen": "int64",
    "best_so_far": "float64",
    "kind": "object",
    "parent": "Int64",
    "edit": "object",
    "n_changed": "Int64",
    "log_prob": "float64",
    "value": "float64",
    "expected_gain": "float64",
    "policy_version": "Int64",
    "reward": "float64",
    "return": "float64",
    "advantage": "float64",
}


def _row(
    trial: FrozenTrial, finished: NDArray[np.bool_], losses: NDArray[np.float64], sign: float
) -> dict[str, Any]:
    """Return what is recorded of a trial, and the state it was drawn in.

    Args:
        trial: The trial.
        finished: (n,) of all trials by number.
        losses: (n,) of all trials by number, to be minimised; +inf where there is no score.
        sign: Of the objective, -1.0 where it is maximised.
    """
    action = Action.decode(trial.system_attrs)
    seen = finished[: trial.number].copy()
    for first, last in () if action is None else action.unseen:
        seen[first : last + 1] = False
    best = float(losses[: trial.number][seen].min(initial=math.inf))
    ending = _ending(trial)
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name,
        "outcome": None if ending is None else ending.value,
        "objective": trial.value,
        "seconds": trial.user_attrs.get(
            SECONDS_KEY, None if trial.duration is None else trial.duration.total_seconds()
        ),
        "memory_mb": trial.user_attrs.get(MEMORY_KEY),
        "n_seen": int(seen.sum()),
    }
    if best < math.inf:
        row["best_so_far"] = sign * best
    if action is not None:
        row |= {
            "kind": action.kind,
            "parent": action.parent,
            "edit": action.edit,
            "n_changed": None if action.edit is None else len(action.edit),
            "log_prob": action.log_prob,
            "value": action.value,
            "expected_gain": action.expected_gain,
            "policy_version": action.policy_version,
        }
    return row


def _returns_and_advantages(
    rewards: Sequence[float], values: np.ndarray[Any, Any]
) -> tuple[list[float], list[float]]:
    """Return the return of every observed trial, and the advantage of those with a value."""
    import torch

    from optuna_arrl.sampler.ppo import generalized_advantage
    from optuna_arrl.sampler.ppo import PPOConfig

    config = PPOConfig()
    returns = [0.0] * len(rewards)
    ahead = 0.0
    for t in reversed(range(len(rewards))):
        returns[t] = ahead = rewards[t] + config.discount * ahead
    advantages = np.full(len(rewards), np.nan)
    own = ~np.isnan(values)
    advantages[own] = generalized_advantage(
        torch.from_numpy(np.asarray(rewards)[own]),
        torch.from_numpy(values[own]),
        0.0,
        config.discount,
        config.gae_lambda,
    )[0].numpy()
    return returns, advantages.tolist()
