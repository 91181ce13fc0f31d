"""ARRLSampler: Optuna's hooks, thin. What they do is in state.py and learner.py."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
import os
from pathlib import Path
import threading
from typing import Any
from typing import TYPE_CHECKING

import numpy as np
from optuna.logging import get_logger
from optuna.samplers import BaseSampler

from optuna_arrl.policy_store import MemoryPolicyStore
from optuna_arrl.policy_store import open_policy_store
from optuna_arrl.policy_store import study_key
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.state import draws
from optuna_arrl.sampler.state import is_same
from optuna_arrl.sampler.state import pending_edits
from optuna_arrl.sampler.state import pending_ranges
from optuna_arrl.sampler.state import search_space as union_search_space
from optuna_arrl.sampler.state import seen_trials
from optuna_arrl.sampler.state import situation_of
from optuna_arrl.sampler.state import unseen_ranges
from optuna_arrl.trajectory import Action
from optuna_arrl.trajectory import ACTION_KEY
from optuna_arrl.trajectory import FIXED_PARAMS_KEY
from optuna_arrl.trajectory import measured_noise
from optuna_arrl.trajectory import PARENT_KEY
from optuna_arrl.trajectory import POLICY_VERSION_KEY
from optuna_arrl.trajectory import SAMPLER_SEED_KEY


if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    import torch

    from optuna_arrl.policy_store import PolicyVersion
    from optuna_arrl.sampler.learner import Learner
    from optuna_arrl.sampler.learner import Policy


__all__ = ["ARRLSampler"]

_logger = get_logger(__name__)

ACQUISITION = "acquisition"
"""Name of the policy in which the surrogate's acquisition chooses and nothing learns."""

# Streams of random numbers of one trial; 0 draws the candidates.
_CHOICE_STREAM = 1
_INDEPENDENT_STREAM = 2
# Policies of so many studies are kept at hand, those used last. Another is loaded again, or, where
# a study's storage keeps none, learned anew from its trials.
_MAX_STUDIES = 16


class ARRLSampler(BaseSampler):
    """Sampler that edits good trials, chooses the edit by a policy, and trains the policy by PPO.

    Each trial is an *edit* of an earlier one. Proposers draw candidate edits, a small network
    scores them from what Gaussian processes say of score and crash and from the trials
    themselves, and one is drawn, nearly always the best. How much it explores, and what to add to
    the processes' scores, was learned on random tasks and real runs (docs/pretraining.md); when a
    batch of a study's own trials has ended, PPO goes on with it.

    Everything is read from and written to the study's storage: a new process with the same storage
    goes on with the same policy and proposes the same next edit. It serves any single-objective
    study. Trials that failed are learned from (the edit does not run), those of other samplers and
    enqueued ones too.

    Example:

        .. code-block:: python

            import optuna
            from optuna_arrl import ARRLSampler


            def objective(trial):
                x = trial.suggest_float("x", -10, 10)
                return (x - 2) ** 2


            study = optuna.create_study(sampler=ARRLSampler(seed=0))
            study.optimize(objective, n_trials=30)

    Args:
        seed:
            Seed of all random choices, ≥ 0. Trial `n` draws from `SeedSequence([seed, n])`. With
            :obj:`None` a study goes on with the seed of its first sampler, which is drawn when
            there is none and stored with the study.
        policy:
            Safetensors file with the weights that a new study begins with, such as those that
            ``arrl pretrain`` makes, in place of those that come with the package. A study that has
            begun goes on with its own. With ``"acquisition"`` nothing learned has a say: edits
            are chosen by the surrogate's acquisition alone, nothing is learned, and no version
            is stored.
        batch_size:
            Trials that have to end before the policy learns from them. Fewer make it learn
            sooner, from noisier gradients. Where the storage is not an SQL database, all workers
            of a study have to use the same.

    Raises:
        ValueError:
            When an argument is out of its range, and when the study has several objectives.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        policy: str | os.PathLike[str] | None = None,
        batch_size: int = 16,
    ) -> None:
        if seed is not None and not _is_whole(seed, 0):
            raise ValueError(f"`seed` must be a whole number of at least 0, but got {seed!r}.")
        if not _is_whole(batch_size, 2):
            raise ValueError(
                f"`batch_size` must be a whole number of at least 2, but got {batch_size!r}."
            )
        if policy not in (None, ACQUISITION) and not _is_file(policy):
            raise ValueError(
                f"`policy` must be a safetensors file or '{ACQUISITION}', but '{policy}' is none."
            )
        self._seed = None if seed is None else int(seed)
        self._policy = policy if policy in (None, ACQUISITION) else Path(policy)
        self._batch_size = int(batch_size)
        self._reseeded: int | None = None
        self._seeds: dict[str, int] = {}
        self._learners: dict[str, Learner] = {}
        self._warned: set[str] = set()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        # A policy that lives in a storage is loaded from there again, so that no connection and
        # no credentials travel. One that lives in memory travels as bytes.
        with self._lock:
            state = self.__dict__.copy()
            state["_learners"] = {
                key: learner
                for key, learner in self._learners.items()
                if isinstance(learner.store, MemoryPolicyStore)
            }
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def reseed_rng(self) -> None:
        """Draw a new seed; it outranks the constructor's and the study's from here on.

        Optuna calls this before every trial when `n_jobs` is not 1.
        """
        self._reseeded = _new_seed()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Load the newest policy and, when a batch of trials has ended, learn from it."""
        self._raise_error_if_multi_objective(study)
        self._advance(study, remainder=False)

    def learn(self, study: Study) -> None:
        """Learn from the trials that ended since the last batch, two or more.

        To be called when a study ends, so that what its last trials taught is kept. It does
        nothing where the storage is not an SQL database: there a batch is a fixed block of trials.

        Args:
            study:
                The study; its sampler need not be this one.
        """
        self._raise_error_if_multi_objective(study)
        self._advance(study, remainder=True)

    def policy_versions(self, study: Study) -> list[PolicyVersion]:
        """Return the versions of a study's policy in order, without their weights.

        Args:
            study:
                A study whose first trial has started. Where its storage keeps no versions, only a
                sampler that drove it has any.
        """
        with self._lock:
            return self._learner_for(study).store.records()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the union of the latest distributions in the trials seen."""
        self._raise_error_if_multi_objective(study)
        trials = _all_trials(study)
        return union_search_space(
            seen_trials(trials, trial.number, unseen_ranges(trials, trial.number))
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the trial's edit, store the action, and return the parameter values."""
        self._raise_error_if_multi_objective(study)
        distributions = {name: d for name, d in search_space.items() if not d.single()}
        if not distributions:
            return {}
        from optuna_arrl.sampler.proposers import GENERATOR_VERSION  # imports torch
        from optuna_arrl.sampler.proposers import KINDS

        trials = _all_trials(study)
        unseen = unseen_ranges(trials, trial.number)
        pending = pending_ranges(trials, trial.number)
        seed = self._seed_for(study)
        situation = situation_of(
            seen_trials(trials, trial.number, unseen),
            distributions,
            study.direction,
            seed,
            trial.number,
            pending_edits(trials, pending),
        )
        policy = self._policy_for(study)
        log_probs, value = policy.judge(situation)
        index = _draw(log_probs, draws(seed, trial.number, _CHOICE_STREAM))
        params = situation.params(index)
        # Where a person has fixed some values, what runs is not what was drawn: no action.
        if not trial.system_attrs.get(FIXED_PARAMS_KEY):
            parent = situation.parent(index)
            self._record(
                study,
                trial,
                Action(
                    index=index,
                    edit=_difference(params, {} if parent is None else parent.params),
                    parent=None if parent is None else parent.number,
                    kind=KINDS[int(situation.candidates.kinds[0, index])],
                    log_prob=float(log_probs[index]),
                    value=value,
                    expected_gain=situation.expected_gain(index),
                    policy_version=policy.version,
                    seed=seed,
                    unseen=unseen,
                    pending=pending,
                    generator=GENERATOR_VERSION,
                    candidates=situation.candidates.digest(),
                    space=situation.space.digest(),
                ),
            )
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one value uniformly: for parameters that no seen trial has in this range."""
        self._raise_error_if_multi_objective(study)
        space = Space({param_name: param_distribution})
        rng = draws(self._seed_for(study), trial.number, _INDEPENDENT_STREAM, *param_name.encode())
        return space.decode(rng.random(1))[param_name]

    def _record(self, study: Study, trial: FrozenTrial, action: Action) -> None:
        """Store the action with the trial, and what of it people read."""
        people = {PARENT_KEY: action.parent, POLICY_VERSION_KEY: action.policy_version}
        encoded = action.encode()
        study._storage.set_trial_system_attr(trial._trial_id, ACTION_KEY, encoded)
        # The objective's trial is a copy made before: what it is to see goes there too.
        trial._system_attrs[ACTION_KEY] = encoded
        for key, value in people.items():
            if value is not None:
                study._storage.set_trial_user_attr(trial._trial_id, key, value)
                trial._user_attrs[key] = value

    def _seed_for(self, study: Study) -> int:
        if self._reseeded is not None:
            return self._reseeded
        key = study_key(study) or ""
        with self._lock:
            if key not in self._seeds:
                self._seeds[key] = self._first_seed(study)
            return self._seeds[key]

    def _first_seed(self, study: Study) -> int:
        """Return the study's seed, and store it where the study has none."""
        storage, study_id = study._storage, study._study_id
        stored = storage.get_study_system_attrs(study_id).get(SAMPLER_SEED_KEY)
        if stored is None:
            drawn = _new_seed() if self._seed is None else self._seed
            storage.set_study_system_attr(study_id, SAMPLER_SEED_KEY, drawn)
            # Of workers that start together the last writer's stays; one that read before it goes
            # on with its own, and its actions say so.
            stored = storage.get_study_system_attrs(study_id)[SAMPLER_SEED_KEY]
        return int(stored) if self._seed is None else self._seed

    def _advance(self, study: Study, *, remainder: bool) -> None:
        with self._lock:
            learner = self._learner_for(study)
            try:
                learner.advance(
                    _all_trials(study),
                    study.direction,
                    lambda: measured_noise(study),
                    remainder=remainder,
                )
            except Exception as error:
                self._warn_once(study, error)

    def _policy_for(self, study: Study) -> Policy:
        with self._lock:
            learner = self._learner_for(study)
            if not learner.loaded:
                try:
                    learner.refresh()
                except Exception as error:
                    self._warn_once(study, error)
            return learner.policy

    def _learner_for(self, study: Study) -> Learner:
        from optuna_arrl.sampler.learner import Learner  # imports torch
        from optuna_arrl.sampler.learner import shipped_policy

        key = study_key(study) or ""
        learner = self._learners.get(key)
        # A study on Journal may be told of its artifact folder after its first trial began.
        if learner is None or isinstance(learner.store, MemoryPolicyStore):
            store = open_policy_store(study, key)
            if learner is None or not isinstance(store, MemoryPolicyStore):
                shipped = shipped_policy(self._policy)
                learns = self._policy != ACQUISITION
                learner = Learner(store, shipped, self._batch_size, learns=learns)
        self._learners.pop(key, None)
        self._learners[key] = learner  # the last one: used last
        while len(self._learners) > _MAX_STUDIES:
            self._learners.pop(next(iter(self._learners)))
        return learner

    def _warn_once(self, study: Study, error: Exception) -> None:
        # A study does not end for want of learning; the policy it has still chooses.
        if study.study_name not in self._warned:
            self._warned.add(study.study_name)
            _logger.warning(
                f"Policy of study '{study.study_name}' not updated, the study goes on with the "
                f"one it has and tries again at the next trial: {type(error).__name__}: {error}"
            )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and int(value) >= least


def _is_file(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and Path(value).is_file()


def _all_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials: some pruners pass a study that shows but a part of them."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def _draw(log_probs: torch.Tensor, rng: np.random.Generator) -> int:
    """Return an index drawn from log-probabilities (C,); never one of probability zero."""
    cumulative = np.cumsum(np.exp(log_probs.numpy().astype(np.float64)))
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def _difference(params: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in params.items()
        if name not in parent or not is_same(parent[name], value)
    }


def _new_seed() -> int:
    """Return 32 bits of the operating system's randomness."""
    return int(np.random.SeedSequence().generate_state(1)[0])
