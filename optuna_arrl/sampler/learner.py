"""Finished trials → PPO update → new policy version.

Nothing is kept between updates but what the store holds: batches, candidates, rewards and
advantages are derived from the study each time, so that any process can go on where another
stopped. Several may: of two that make the same version, the store takes the first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import copy
from dataclasses import asdict
from dataclasses import dataclass
import hashlib
import json
import math
from pathlib import Path
import time
from typing import Any
from typing import TYPE_CHECKING

from optuna.logging import get_logger
from safetensors.torch import load
from safetensors.torch import save
import torch

from optuna_arrl.policy_store import MemoryPolicyStore
from optuna_arrl.policy_store import PolicyStore
from optuna_arrl.policy_store import PolicyVersion
from optuna_arrl.policy_store import SqlPolicyStore
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.ppo import Batch
from optuna_arrl.sampler.ppo import ppo_update
from optuna_arrl.sampler.ppo import PPOConfig
from optuna_arrl.sampler.proposers import GENERATOR_VERSION
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.state import is_same
from optuna_arrl.sampler.state import one_thread
from optuna_arrl.sampler.state import pending_edits
from optuna_arrl.sampler.state import search_space
from optuna_arrl.sampler.state import seen_trials
from optuna_arrl.sampler.state import Situation
from optuna_arrl.sampler.state import situation_of
from optuna_arrl.sampler.state import unseen_ranges
from optuna_arrl.trajectory import Action
from optuna_arrl.trajectory import FIXED_PARAMS_KEY
from optuna_arrl.trajectory import Observation
from optuna_arrl.trajectory import observe
from optuna_arrl.trajectory import observed_rewards


if TYPE_CHECKING:
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial


__all__ = ["Learner", "Policy", "shipped_policy"]

_logger = get_logger(__name__)

_SHIPPED = Path(__file__).parent / "weights" / "policy.safetensors"

# PPO normalises advantages over a batch; of a single step nothing is left.
_MIN_STEPS = 2
# An update looks at no more trials than these, the latest: a study copied from elsewhere may bring
# thousands, and each costs as much as a suggestion.
_MAX_TRIALS = 64
# Without SQL, versions are made of fixed blocks of trial numbers. A trial that is still running
# when so many blocks after its own have ended is taken for dead (Journal has no heartbeat).
_PATIENCE_BLOCKS = 2


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy version ready for use. Never changed once made: threads share it.

    Attributes:
        version: Its number in the study.
        network: In evaluation mode.
        weights: The network's weights as safetensors bytes.
        optimiser: The optimiser's state as safetensors bytes, None before the first update.
    """

    version: int
    network: PolicyNetwork
    weights: bytes
    optimiser: bytes | None

    def __reduce__(self) -> tuple[Any, ...]:
        # No tensors in a pickle: they are made anew from the bytes.
        return _policy, (self.version, self.weights, self.optimiser)

    @property
    def sha256(self) -> str:
        """Hash of the weights, hex."""
        return hashlib.sha256(self.weights).hexdigest()

    def judge(self, situation: Situation) -> tuple[torch.Tensor, float]:
        """Return log-probabilities (C,) of a situation's candidates, and its value."""
        with torch.no_grad(), one_thread():
            inputs = _inputs(situation)
            output = self.network(inputs)
            return action_distribution(output.logits, inputs.mask)[0], float(output.value)


@dataclass(frozen=True, eq=False)
class _Step:
    """One trial as an update sees it."""

    observation: Observation
    reward: float
    action: Action
    score: float  # warped loss; nan where there is none
    inputs: PolicyInput


def shipped_policy(source: Path | str | None) -> Policy:
    """Return version 0.

    Args:
        source:
            A safetensors file of the network's weights; "acquisition" for the policy that follows
            the surrogate's acquisition (what it learned is zero); None for the weights that come
            with the package.

    Raises:
        ValueError:
            When the file does not hold the weights of this network.
    """
    if source == "acquisition":
        return _policy(0, save(_contiguous(PolicyNetwork().state_dict())), None)
    path = _SHIPPED if source is None else Path(source)
    try:
        return _policy(0, path.read_bytes(), None)
    except Exception as error:
        raise ValueError(
            f"`policy` must be a safetensors file with the weights of a PolicyNetwork: "
            f"'{path}' is not ({error})."
        ) from error


class Learner:
    """The policy of one study: loads the newest version, makes the next one.

    Args:
        store:
            Where the study's versions live.
        shipped:
            Version 0 of a study that has none yet.
        batch_size:
            Trials that have to end before they are learned from.
        learns:
            Whether versions are loaded and made; else `shipped` is kept and the store left alone.
    """

    def __init__(
        self, store: PolicyStore, shipped: Policy, batch_size: int, *, learns: bool = True
    ) -> None:
        self.store = store
        self._learns = learns
        self._shipped = self._policy = self._reference = shipped
        self._batch_size = batch_size
        self._loaded = False
        self._consumed: set[int] = set()

    @property
    def policy(self) -> Policy:
        """The newest policy that :meth:`refresh` or :meth:`advance` has seen."""
        return self._policy

    @property
    def loaded(self) -> bool:
        """Whether the store has been read."""
        return self._loaded

    def refresh(self) -> None:
        """Load the newest version; the first worker of a study stores version 0."""
        if not self._learns:
            self._loaded = True
            return
        newest = self.store.newest()
        if newest is None:
            self.store.append(
                PolicyVersion(
                    version=0,
                    parent=None,
                    sha256=self._policy.sha256,
                    weights=self._policy.weights,
                    optimiser=None,
                    rng="null",
                    consumed=(),
                    statistics={},
                    created=time.time(),
                )
            )
            newest = 0
        if self._loaded and newest == self._policy.version:
            return
        try:
            reference = self._stored_reference()
            policy = reference
            if newest > 0:
                found = self.store.load(newest)
                assert found.weights is not None
                policy = _policy(newest, found.weights, found.optimiser)
        except RuntimeError:  # of load_state_dict: other names or shapes
            self._learns, self._policy, self._loaded = False, self._shipped, True
            _logger.warning(
                "This study's policy was made by another release of optuna-arrl, whose network "
                "has other weights: the study goes on with the policy of this release, and that "
                "does not learn. To learn, go on with that release, or begin a new study."
            )
            return
        consumed = {number for record in self.store.records() for number in record.consumed}
        # All or nothing: a storage may fail at any of the reads above, and a policy without what
        # it has consumed would learn from the same trials again.
        self._reference, self._policy, self._consumed = reference, policy, consumed
        self._loaded = True

    def _stored_reference(self) -> Policy:
        """Return the study's version 0, which the KL penalty refers to."""
        stored = self.store.load(0)
        if stored.sha256 == self._reference.sha256:
            return self._reference
        _logger.info("The study's own policy version 0 is used, not the one given.")
        assert stored.weights is not None
        return _policy(0, stored.weights, None)

    def advance(
        self,
        trials: Sequence[FrozenTrial],
        direction: StudyDirection,
        noise: Callable[[], float],
        *,
        remainder: bool = False,
    ) -> None:
        """Load the newest version and, when a batch of trials has ended, make the next one.

        Args:
            trials:
                All trials of the study.
            direction:
                Of the study.
            noise:
                Returns the standard deviation of a repeat, in the unit of the objective; asked
                only when a version is made.
            remainder:
                Learn from fewer trials than a batch, too (SQL storages only: elsewhere a version
                is made of a fixed block of trials).
        """
        begun = not self._loaded
        self.refresh()
        if not self._learns:
            return
        replayed = 0
        finished = [trial for trial in trials if trial.state.is_finished()]
        ended = {t.number: t for t in sorted(finished, key=lambda trial: trial.number)}
        numbers_ended = list(ended)
        while (numbers := self._next_batch(numbers_ended, remainder)) is not None:
            used = self._make_version(trials, ended, numbers, direction, noise())
            replayed += begun and used > 0
        if replayed and isinstance(self.store, MemoryPolicyStore):
            _logger.warning(
                "This study's storage holds no policy versions: the policy was learned anew from "
                f"the study's trials ({replayed} update(s)). With an SQL database, or an artifact "
                "folder, it is kept."
            )

    def _next_batch(self, ended: Sequence[int], remainder: bool) -> Sequence[int] | None:
        """Return the numbers of the trials that the next version consumes; None: too few.

        Args:
            ended: Numbers of all finished trials, in ascending order.
            remainder: See :meth:`advance`.
        """
        if isinstance(self.store, SqlPolicyStore):
            due = [number for number in ended if number not in self._consumed]
            return due if len(due) >= (_MIN_STEPS if remainder else self._batch_size) else None
        # Duplicates cannot tell each other what they took, so everybody takes the same block.
        first = 1 + max(self._consumed, default=-1)
        block = range(first, first + self._batch_size)
        before, within = bisect_left(ended, block.start), bisect_left(ended, block.stop)
        complete = within - before == self._batch_size
        if complete or len(ended) - within >= _PATIENCE_BLOCKS * self._batch_size:
            return block
        return None

    def _make_version(
        self,
        trials: Sequence[FrozenTrial],
        ended: Mapping[int, FrozenTrial],
        numbers: Sequence[int],
        direction: StudyDirection,
        noise: float,
    ) -> int:
        """Learn from the trials of a batch and append the version, or load the winner's.

        Args:
            trials: All of the study.
            ended: The finished ones by number, in ascending order.
            numbers: The batch's, in ascending order.
            direction: Of the study.
            noise: See :meth:`advance`.

        Returns:
            How many of the trials were learned from.
        """
        version = self._policy.version + 1
        weights, optimiser = self._policy.weights, self._policy.optimiser
        steps, statistics = self._steps(trials, ended, numbers, direction, noise)
        if len(steps) >= _MIN_STEPS:
            try:
                last_value = self._value_after(trials, numbers[-1], steps[-1].action, direction)
                weights, optimiser, figures = self._learn(steps, last_value, seed=version)
                statistics |= figures
            except Exception as error:
                # Tried again, it would fail again at every trial from here on: the batch counts
                # as consumed, and the weights stay what they were.
                statistics["failed"] = repr(error)
                _logger.warning(f"Policy update {version} failed, the policy stays: {error!r}")
        made = PolicyVersion(
            version=version,
            parent=self._policy.version,
            sha256=hashlib.sha256(weights).hexdigest(),
            weights=weights,
            optimiser=optimiser,
            rng=json.dumps({"torch_seed": version}),
            consumed=tuple(numbers),
            statistics=statistics,
            created=time.time(),
        )
        if self.store.append(made):
            self._policy = _policy(version, weights, optimiser)
            self._consumed.update(numbers)
        else:
            self.refresh()
        return len(steps)

    def _steps(
        self,
        trials: Sequence[FrozenTrial],
        ended: Mapping[int, FrozenTrial],
        numbers: Sequence[int],
        direction: StudyDirection,
        noise: float,
    ) -> tuple[list[_Step], dict[str, Any]]:
        """Return the trials of a batch that can be learned from, and what was left out and why."""
        chosen: list[int] = []
        left_out: Counter[str] = Counter()
        if len(numbers) > _MAX_TRIALS:
            left_out["too_old"] = len(numbers) - _MAX_TRIALS
        for number in numbers[-_MAX_TRIALS:]:
            reason = _not_chosen(ended[number]) if number in ended else "no_evidence"
            if reason is None:
                chosen.append(number)
            else:
                left_out[reason] += 1
        # A reward looks back over the whole study. A resumed one may begin with thousands of
        # trials of another sampler, batch after batch: those need none.
        past = [t for number, t in ended.items() if number <= numbers[-1]] if chosen else []
        observations = observe(past, direction)
        rewards = observed_rewards(observations, noise)
        known = {o.trial.number: (o, r) for o, r in zip(observations, rewards, strict=True)}
        steps: list[_Step] = []
        for number in chosen:
            found = _step(*known[number], trials, direction) if number in known else "no_evidence"
            if isinstance(found, str):
                left_out[found] += 1
            else:
                steps.append(found)
        mean = sum(step.reward for step in steps) / len(steps) if steps else None
        statistics = {"used": len(steps), "left_out": dict(left_out), "mean_reward": mean}
        return steps, statistics

    def _value_after(
        self,
        trials: Sequence[FrozenTrial],
        last: int,
        action: Action,
        direction: StudyDirection,
    ) -> float:
        """Return the value of the state that a batch ends in: what is still to come counts."""
        number = last + 1
        seen = seen_trials(trials, number, unseen_ranges(trials, number))
        situation = situation_of(seen, search_space(seen), direction, action.seed, number)
        return self._policy.judge(situation)[1]

    def _learn(
        self, steps: Sequence[_Step], last_value: float, seed: int
    ) -> tuple[bytes, bytes, dict[str, Any]]:
        """Return the updated weights, the optimiser's state and the figures of the update."""
        config = PPOConfig()
        with one_thread():
            batch = Batch.of_study(
                PolicyInput.cat([step.inputs for step in steps]),
                action=torch.tensor([step.action.index for step in steps]),
                log_prob=torch.tensor([step.action.log_prob for step in steps]),
                rewards=torch.tensor([step.reward for step in steps]),
                values=torch.tensor([step.action.value for step in steps]),
                last_value=last_value,
                score=torch.tensor([step.score for step in steps]),
                ran=torch.tensor([float(step.observation.ran) for step in steps]),
                shipped=self._reference.network,
                config=config,
            )
            network = copy.deepcopy(self._policy.network).requires_grad_(True).train()
            optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
            _load_optimiser(optimizer, self._policy.optimiser)
            generator = torch.Generator().manual_seed(seed)
            figures = asdict(ppo_update(network, optimizer, batch, config, generator))
        weights = save(_contiguous(network.state_dict()))
        # A version that cannot be loaded, or that holds nan, must fail here and not when used.
        if not all(tensor.isfinite().all() for tensor in load(weights).values()):
            raise FloatingPointError("the updated weights are not finite")
        figures = {
            name: value if math.isfinite(value) else None for name, value in figures.items()
        }
        return weights, _optimiser_bytes(optimizer), figures


def _not_chosen(trial: FrozenTrial) -> str | None:
    """Return why a trial's parameters are no choice of this release's policy; None: they are."""
    action = Action.decode(trial.system_attrs)
    if action is None:
        return "enqueued" if FIXED_PARAMS_KEY in trial.system_attrs else "no_action"
    return "other_generator" if action.generator != GENERATOR_VERSION else None


def _step(
    observation: Observation,
    reward: float,
    trials: Sequence[FrozenTrial],
    direction: StudyDirection,
) -> _Step | str:
    """Return a trial that was chosen as a step to learn from, or the reason why it is none."""
    trial = observation.trial
    action = Action.decode(trial.system_attrs)
    assert action is not None
    seen = seen_trials(trials, trial.number, action.unseen)
    distributions = search_space(seen)
    if not distributions or not all(t.state.is_finished() for t in seen):
        return "other_space"
    if Space(distributions).digest() != action.space:  # a PartialFixedSampler takes names away
        return "other_space"
    pending = pending_edits(trials, action.pending)
    situation = situation_of(seen, distributions, direction, action.seed, trial.number, pending)
    if situation.candidates.digest() != action.candidates:
        return "other_candidates"
    drawn = situation.params(action.index)
    both = trial.params.keys() & drawn.keys()
    if not all(is_same(trial.params[name], drawn[name]) for name in both):
        return "overridden"
    score = math.nan
    if observation.ran and not observation.pruned:
        loss = torch.tensor([[observation.loss]], dtype=torch.float64)
        score = float(situation.surrogate.warped_losses(loss))
    return _Step(observation, reward, action, score, _inputs(situation))


def _inputs(situation: Situation) -> PolicyInput:
    with one_thread():
        return policy_input(situation.history, situation.candidates, situation.surrogate)


def _policy(version: int, weights: bytes, optimiser: bytes | None) -> Policy:
    network = PolicyNetwork()
    network.load_state_dict(load(weights))
    return Policy(version, network.eval().requires_grad_(False), weights, optimiser)


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _optimiser_bytes(optimizer: torch.optim.Optimizer) -> bytes:
    """Return all of an optimiser's tensors, named `parameter.quantity`."""
    state = optimizer.state_dict()["state"]
    return save(
        _contiguous(
            {
                f"{parameter}.{quantity}": tensor
                for parameter, tensors in state.items()
                for quantity, tensor in tensors.items()
            }
        )
    )


def _load_optimiser(optimizer: torch.optim.Optimizer, stored: bytes | None) -> None:
    if stored is None:
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load(stored).items():
        parameter, quantity = name.split(".")
        state.setdefault(int(parameter), {})[quantity] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
