"""Study history → what the policy sees: which trials count, over which search space.

The state of a trial is a function of finished trials and of the edits that were under way when it
was drawn, both of which its action names: any process that reads the same trials from storage sees
the same state, whether it draws the next edit or learns from an old one.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import math
import threading
from typing import Any
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

from optuna_arrl.sampler.space import Array
from optuna_arrl.sampler.space import Space
from optuna_arrl.trajectory import Action
from optuna_arrl.trajectory import FIXED_PARAMS_KEY
from optuna_arrl.trajectory import from_ranges
from optuna_arrl.trajectory import observe
from optuna_arrl.trajectory import to_ranges


if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial
    import torch

    from optuna_arrl.sampler.history import History
    from optuna_arrl.sampler.proposers import Candidates
    from optuna_arrl.sampler.surrogate import Surrogate


__all__ = [
    "Situation",
    "build_history",
    "draws",
    "is_same",
    "one_thread",
    "pending_edits",
    "pending_ranges",
    "search_space",
    "seen_trials",
    "situation_of",
    "unseen_ranges",
]

# A slot that none of the last so many trials had has gone; a conditional one comes back sooner.
_RECENT_TRIALS = 100
# With so many different ranges among those trials a number's range is one that a trial sets
# (`suggest_float("y", 0, x)`), not one that a person has changed.
_MOVING_RANGES = 3
# An action holds at most so many ranges of unseen trials (it must stay below 4 kB).
_MAX_UNSEEN_RANGES = 60
_MAX_PENDING_RANGES = 30
_MAX_PENDING_AGE = 128  # trials
# Every stream of random numbers of a trial has its own key, so that none repeats another.
_CANDIDATES_STREAM = 0


@dataclass(frozen=True, eq=False)
class Situation:
    """The state at which one edit is drawn, and the edits it is drawn from.

    Attributes:
        space: The search space.
        trials: The finished trials of the history, in its order.
        history: What the finished trials teach, and after them the trials under way, at what is
            expected of them; a batch of one.
        candidates: The edits to choose from.
        surrogate: Of the history, fitted to the finished trials.
    """

    space: Space
    trials: Sequence[FrozenTrial]
    history: History
    candidates: Candidates
    surrogate: Surrogate

    def parent(self, index: int) -> FrozenTrial | None:
        """Return the trial that a candidate edits, or None."""
        row = int(self.candidates.parents[0, index])
        return self.trials[row] if row >= 0 else None

    def params(self, index: int) -> dict[str, Any]:
        """Return the parameter values that a candidate stands for."""
        parent = self.parent(index)
        return self.space.decode(
            self.candidates.points[0, index].numpy(), None if parent is None else parent.params
        )

    def expected_gain(self, index: int) -> float | None:
        """Return by how much a candidate is expected to beat the best trial; None: unknown."""
        with one_thread():
            prediction = self.surrogate.predict(self.candidates.points[:, index : index + 1])
            gain = float(self.surrogate.expected_gain(prediction))
        return gain if math.isfinite(gain) else None


def draws(seed: int, number: int, *stream: int) -> np.random.Generator:
    """Return a source of random numbers of one trial: the same in any process.

    Args:
        seed: The sampler's seed.
        number: The trial's number.
        stream: Names the stream; streams of different names are independent.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, number], spawn_key=stream))


def is_same(value: Any, other: Any) -> bool:
    """Tell whether two parameter values are the same; a choice may be nan."""
    return bool(value == other or (value != value and other != other))


def unseen_ranges(trials: Sequence[FrozenTrial], number: int) -> tuple[tuple[int, int], ...]:
    """Return the trials below `number` that cannot be seen: all others are finished.

    Args:
        trials: All trials of the study.
        number: The number of the trial to sample.

    Returns:
        Ranges [first, last] in ascending order, 60 at most: of more, those with the fewest
        finished trials between them are joined, and these are not looked at. Workers that were
        killed may leave many.
    """
    finished = {trial.number for trial in trials if trial.state.is_finished()}
    ranges = to_ranges(n for n in range(number) if n not in finished)
    if len(ranges) > _MAX_UNSEEN_RANGES:
        by_distance = sorted(
            range(1, len(ranges)), key=lambda i: (ranges[i - 1][1] - ranges[i][0], -i)
        )
        starts = [0, *sorted(by_distance[: _MAX_UNSEEN_RANGES - 1])]
        ends = [*(start - 1 for start in starts[1:]), len(ranges) - 1]
        ranges = [[ranges[i][0], ranges[j][1]] for i, j in zip(starts, ends, strict=True)]
    return tuple((first, last) for first, last in ranges)


def seen_trials(
    trials: Sequence[FrozenTrial], number: int, unseen: Sequence[tuple[int, int]]
) -> list[FrozenTrial]:
    """Return the trials below `number` outside the `unseen` ranges, in order of number."""
    hidden = {n for first, last in unseen for n in range(first, last + 1)}
    seen = [t for t in trials if t.number < number and t.number not in hidden]
    return sorted(seen, key=lambda trial: trial.number)


def pending_ranges(trials: Sequence[FrozenTrial], number: int) -> tuple[tuple[int, int], ...]:
    """Return the unfinished trials below `number` whose edits are known.

    A trial that 128 others were started after is taken for dead, and its edit forgotten.

    Args:
        trials: All trials of the study.
        number: The number of the trial to sample.

    Returns:
        Ranges [first, last] in ascending order, the latest 30.
    """
    by_number = {trial.number: trial for trial in trials}
    known = to_ranges(
        n
        for n in range(max(number - _MAX_PENDING_AGE, 0), number)
        if n in by_number
        and not by_number[n].state.is_finished()
        and _edit_of(by_number[n], by_number) is not None
    )
    return tuple((first, last) for first, last in known[-_MAX_PENDING_RANGES:])


def pending_edits(
    trials: Sequence[FrozenTrial], pending: Sequence[tuple[int, int]]
) -> list[Mapping[str, Any]]:
    """Return the parameter values that pending trials were started with, in order of number.

    They are those that were drawn or enqueued: what a trial has asked for so far is a matter of
    the moment, and no state could be made again from it.
    """
    by_number = {trial.number: trial for trial in trials}
    edits = [_edit_of(by_number[n], by_number) for n in from_ranges(pending) if n in by_number]
    return [edit for edit in edits if edit is not None]


def _edit_of(trial: FrozenTrial, by_number: Mapping[int, FrozenTrial]) -> Mapping[str, Any] | None:
    action = Action.decode(trial.system_attrs)
    if action is None:
        enqueued = trial.system_attrs.get(FIXED_PARAMS_KEY)
        return enqueued if isinstance(enqueued, dict) and enqueued else None
    parent = None if action.parent is None else by_number.get(action.parent)
    if action.edit is None or (parent is None) != (action.parent is None):
        return None
    return {**({} if parent is None else parent.params), **action.edit}


def search_space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the union of the latest distributions of all parameters of recent trials.

    The union, not the intersection: a conditional parameter belongs to the edit too. A number
    whose range depends on the trial has the range that holds all the recent ones, so that no
    trial is left out because a later one's range was narrow. Parameters with a single legal value
    are left out: there is nothing to choose.

    Args:
        trials: Seen trials, in order of number.

    Returns:
        Distributions, sorted by name.
    """
    recent: dict[str, dict[Any, BaseDistribution]] = {}
    for trial in [trial for trial in trials if trial.distributions][-_RECENT_TRIALS:]:
        for name, d in trial.distributions.items():
            of_name, key = recent.setdefault(name, {}), None
            if isinstance(d, FloatDistribution | IntDistribution):
                key = (type(d), d.low, d.high, d.log, d.step)
            of_name.pop(key, None)  # the latest last
            of_name[key] = d
    union = {name: _union(list(recent[name].values())) for name in sorted(recent)}
    return {
        name: distribution for name, distribution in union.items() if not distribution.single()
    }


def _union(distributions: Sequence[BaseDistribution]) -> BaseDistribution:
    """Return the latest of a parameter's different distributions, or what holds all of them."""
    latest = distributions[-1]
    if isinstance(latest, CategoricalDistribution) or len(distributions) < _MOVING_RANGES:
        return latest
    assert isinstance(latest, FloatDistribution | IntDistribution)
    alike = [
        d
        for d in distributions
        if isinstance(d, FloatDistribution | IntDistribution)
        and (type(d), d.log, d.step) == (type(latest), latest.log, latest.step)
        # One grid. (Of most floats only equal ends lie on one: rounding.)
        and (d.step is None or (d.low - latest.low) % d.step == 0)
    ]
    low, high = min(d.low for d in alike), max(d.high for d in alike)
    return type(latest)(low, high, log=latest.log, step=latest.step)  # type: ignore[arg-type]


def situation_of(
    seen: Sequence[FrozenTrial],
    distributions: Mapping[str, BaseDistribution],
    direction: StudyDirection,
    seed: int,
    number: int,
    pending: Sequence[Mapping[str, Any]] = (),
) -> Situation:
    """Return the state in which trial `number` is sampled. A pure function of its arguments.

    Args:
        seen: Finished trials, in order of number.
        distributions: The search space, at least one parameter.
        direction: Of the study.
        seed: The sampler's seed.
        number: The number of the trial to sample.
        pending: Parameter values of trials under way. They count once a trial ran.
    """
    from optuna_arrl.sampler.proposers import propose  # imports torch
    from optuna_arrl.sampler.surrogate import believe
    from optuna_arrl.sampler.surrogate import Surrogate

    space = Space(distributions)
    history, trials = build_history(space, seen, direction)
    running = _running(space, history, pending)
    with one_thread():
        generator = _torch_generator(draws(seed, number, _CANDIDATES_STREAM))
        candidates = propose(history, generator, running=running)
        surrogate = Surrogate(history)
        if running is not None:
            history = believe(history, surrogate, running)
            surrogate = Surrogate(history, surrogate.theta)
        return Situation(space, trials, history, candidates, surrogate)


def _running(
    space: Space, history: History, pending: Sequence[Mapping[str, Any]]
) -> torch.Tensor | None:
    """Return the points (1, r, D) of trials under way, None where there are none to count."""
    import torch

    if not pending or not history.ran.any():
        return None
    points = space.encode_all(pending)
    present = np.array([[name in params for name in space.names] for params in pending], bool)
    points = points[~(present & np.isnan(points)).any(axis=1)]
    if not len(points):
        return None
    # What they lack is filled in as for the finished trials.
    known = history.points[0].numpy()
    filled = _impute(space, np.concatenate([known, space.snap(points)]))
    return torch.from_numpy(filled[len(known) :])[None]


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(int(rng.integers(1 << 63)))


def build_history(
    space: Space, seen: Sequence[FrozenTrial], direction: StudyDirection
) -> tuple[History, list[FrozenTrial]]:
    """Return what finished trials teach over a search space.

    A trial with a value that the space does not allow (its range has changed) is left out: it was
    run at no point of the space. A parameter that a trial did not have (a condition, a slot that
    was not there yet) gets the usual value of the trials that had it.

    Args:
        space: The search space.
        seen: Finished trials, in order of number.
        direction: Of the study.

    Returns:
        The history, a batch of one, and its trials in their order.
    """
    import torch

    from optuna_arrl.sampler.history import History

    found = observe(seen, direction)
    points = space.encode_all([o.trial.params for o in found])
    present = np.array([[name in o.trial.params for name in space.names] for o in found], bool)
    present = present.reshape(points.shape)
    legal = present.any(axis=1) & ~(present & np.isnan(points)).any(axis=1)
    # Pruned before anything completed: neither a failure nor a score.
    known = np.array([not o.ran or np.isfinite(o.loss) for o in found], bool)
    rows = np.flatnonzero(legal & known)
    observations = [found[row] for row in rows]
    index = {o.trial.number: i for i, o in enumerate(observations)}
    actions = [Action.decode(o.trial.system_attrs) for o in observations]
    parents = [
        -1 if action is None or action.parent is None else index.get(action.parent, -1)
        for action in actions
    ]
    columns = (
        _impute(space, space.snap(points[rows])),
        np.array([o.loss for o in observations], np.float64),
        np.array([o.ran for o in observations], np.bool_),
        np.array(parents, np.int64),
    )
    history = History(space.cube, *(torch.from_numpy(column)[None] for column in columns))
    return history, [o.trial for o in observations]


def _impute(space: Space, points: Array) -> Array:
    """Return points without nan: the most frequent choice, or the (lower) median of a number."""
    for j in np.flatnonzero(np.isnan(points).any(axis=0)):
        known = np.sort(points[~np.isnan(points[:, j]), j])
        if not len(known):
            usual = 0.5
        elif space.is_categorical[j]:
            values, counts = np.unique(known, return_counts=True)
            usual = float(values[counts.argmax()])
        else:
            usual = float(known[(len(known) - 1) // 2])
        points[np.isnan(points[:, j]), j] = usual
    return space.snap(points)


_turn = threading.RLock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: the last bits of a sum depend on how many there are.

    Python threads take turns: torch keeps this number partly for each of them, partly for all.
    """
    import torch

    with _turn:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
