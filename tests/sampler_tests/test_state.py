"""From trials to the state that an edit is drawn in."""

from __future__ import annotations

import math
import threading
from typing import Any

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection
from optuna.trial import create_trial
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
import torch

from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.state import build_history
from optuna_arrl.sampler.state import draws
from optuna_arrl.sampler.state import one_thread
from optuna_arrl.sampler.state import pending_edits
from optuna_arrl.sampler.state import pending_ranges
from optuna_arrl.sampler.state import search_space
from optuna_arrl.sampler.state import seen_trials
from optuna_arrl.sampler.state import situation_of
from optuna_arrl.sampler.state import unseen_ranges
from optuna_arrl.trajectory import Action
from optuna_arrl.trajectory import ACTION_KEY
from optuna_arrl.trajectory import FIXED_PARAMS_KEY


X = FloatDistribution(0, 1)


def trial(
    number: int,
    params: dict[str, Any] | None = None,
    distributions: dict[str, BaseDistribution] | None = None,
    value: float | None = 1.0,
    state: TrialState = TrialState.COMPLETE,
) -> FrozenTrial:
    params = {"x": 0.5} if params is None else params
    made = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=params,
        distributions=distributions or dict.fromkeys(params, X),
    )
    made.number = number
    return made


@given(st.lists(st.booleans(), max_size=40))
def test_seen_and_unseen_share_out_the_trials_below(finished: list[bool]) -> None:
    states = [TrialState.COMPLETE if done else TrialState.RUNNING for done in finished]
    trials = [trial(number, state=state) for number, state in enumerate(states)]
    number = len(trials)
    trials += [trial(number, state=TrialState.RUNNING), trial(number + 1)]  # itself, a later one
    unseen = unseen_ranges(trials, number)
    seen = seen_trials(trials, number, unseen)
    assert [t.number for t in seen] == [n for n, done in enumerate(finished) if done]
    # What was unseen then stays unseen, whatever ends later.
    later = [trial(t.number) for t in trials]
    assert [t.number for t in seen_trials(later, number, unseen)] == [t.number for t in seen]


def test_of_many_unseen_trials_those_are_joined_that_have_the_fewest_between_them() -> None:
    # Workers are killed near the end of every hundred: dead trials and finished ones by turns.
    states = ([TrialState.COMPLETE] * 80 + [TrialState.RUNNING, TrialState.COMPLETE] * 10) * 8
    trials = [trial(number, state=state) for number, state in enumerate(states)]
    unseen = unseen_ranges(trials, 800)
    assert len(unseen) == 60
    seen = seen_trials(trials, 800, unseen)
    assert all(t.state == TrialState.COMPLETE for t in seen)
    numbers = [t.number for t in seen]
    # Between 80 ranges lie 7 times 81 trials and 72 times one: of these the latest 52 are seen.
    assert set(numbers) >= {n for n in range(800) if n % 100 < 80 or n % 100 == 99}
    assert numbers[-12:] == [778, 779, *range(781, 800, 2)]
    assert len(numbers) == 80 + 7 * 81 + 52 + 1


def test_a_trial_that_128_others_were_started_after_is_taken_for_dead() -> None:
    trials = [trial(number) for number in range(200)]
    for number in (50, 90, 91, 150):
        trials[number] = trial(number, state=TrialState.RUNNING)
        trials[number].system_attrs[FIXED_PARAMS_KEY] = {"x": 0.25}
    trials[91].system_attrs.clear()  # its edit is not known
    assert pending_ranges(trials, 200) == ((90, 90), (150, 150))
    assert pending_edits(trials, ((90, 90), (150, 150))) == [{"x": 0.25}] * 2
    assert pending_ranges(trials, 90) == ((50, 50),)


def test_a_range_that_follows_the_trial_holds_all_recent_ones() -> None:
    def moving(number: int, high: float, steps: int) -> FrozenTrial:
        distributions = {"y": FloatDistribution(0.0, high), "k": IntDistribution(1, steps)}
        return trial(number, {"y": 0.0, "k": 1}, dict(distributions))

    trials = [moving(0, 3.0, 4), moving(1, 9.0, 2), moving(2, 0.5, 1)]
    assert search_space(trials) == {"y": FloatDistribution(0.0, 9.0), "k": IntDistribution(1, 4)}
    history, kept = build_history(Space(search_space(trials)), trials, StudyDirection.MINIMIZE)
    assert [t.number for t in kept] == [0, 1, 2] and len(history) == 3
    # A range that a person has narrowed is what it is now.
    assert search_space(trials[1:2] + trials[:1]) == {
        "y": FloatDistribution(0.0, 3.0),
        "k": IntDistribution(1, 4),
    }


def test_space_is_the_union_of_the_latest_distributions() -> None:
    wide = FloatDistribution(0, 10)
    trials = [
        trial(0, {"x": 0.5, "only_then": 0.1}),
        trial(1, {"y": 0.5}),
        trial(2, {"x": 0.5}, {"x": wide}),
        trial(3, {"one": 1}, {"one": IntDistribution(1, 1)}),
    ]
    assert search_space(trials) == {"only_then": X, "x": wide, "y": X}
    assert list(search_space(trials)) == ["only_then", "x", "y"]


def test_a_slot_gone_for_a_hundred_trials_leaves_the_space() -> None:
    trials = [trial(0, {"gone": 0.5}), *(trial(n) for n in range(1, 100))]
    assert set(search_space(trials)) == {"gone", "x"}
    assert set(search_space([*trials, trial(100)])) == {"x"}


def test_history_has_losses_failures_and_lineage() -> None:
    child = trial(2, {"x": 0.25}, value=3.0)
    child.system_attrs[ACTION_KEY] = Action(
        index=0,
        edit=None,
        parent=1,
        kind="momentum",
        log_prob=0.0,
        value=0.0,
        expected_gain=None,
        policy_version=0,
        seed=0,
        unseen=(),
        generator=1,
        candidates="",
        space="",
    ).encode()
    trials = [trial(0, state=TrialState.FAIL), trial(1, value=2.0), child]
    history, known = build_history(Space({"x": X}), trials, StudyDirection.MAXIMIZE)
    assert known == trials
    assert history.losses.tolist() == [[math.inf, -2.0, -3.0]]
    assert history.ran.tolist() == [[False, True, True]]
    assert history.parents.tolist() == [[-1, -1, 1]]
    assert history.points[0, :, 0].tolist() == [0.5, 0.5, 0.25]
    assert history.ranking.tolist() == [[2, 1, 0]]


def test_trials_outside_todays_ranges_are_left_out() -> None:
    space = Space({"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])})
    trials = [
        trial(0, {"x": 5.0}, {"x": FloatDistribution(0, 9)}),
        trial(1, {"x": 0.5, "c": "a"}, {"x": X, "c": CategoricalDistribution(["a", "b"])}),
        trial(2, {"other": 0.5}),
    ]
    _, known = build_history(space, trials, StudyDirection.MINIMIZE)
    assert known == [trials[1]]


def test_parameters_a_trial_did_not_have_get_their_usual_value() -> None:
    distributions = {
        "x": X,
        "n": IntDistribution(0, 9),
        "c": CategoricalDistribution(["a", "b", "c"]),
    }
    rows = [("a", 0), ("c", 1), ("c", 7)]
    trials = [trial(i, {"x": 0.5, "n": n, "c": c}, distributions) for i, (c, n) in enumerate(rows)]
    trials.append(trial(3, {"x": 0.25}))
    space = Space(distributions)
    history, _ = build_history(space, trials, StudyDirection.MINIMIZE)
    assert space.decode(history.points[0, 3].numpy()) == {"x": 0.25, "n": 1, "c": "c"}


def test_pruned_before_any_score_is_neither_failure_nor_score() -> None:
    pruned = trial(0, state=TrialState.PRUNED)
    assert build_history(Space({"x": X}), [pruned], StudyDirection.MINIMIZE)[1] == []
    history, _ = build_history(
        Space({"x": X}), [trial(0), trial(1, state=TrialState.PRUNED)], StudyDirection.MINIMIZE
    )
    assert history.ran.tolist() == [[True, True]]
    assert history.ranking.tolist() == [[0, 1]]


def test_draws_depend_on_seed_number_and_stream() -> None:
    streams = [(0, 1, 0), (0, 1, 1), (1, 1, 0), (0, 2, 0), (0, 1)]
    first = [draws(*stream).random() for stream in streams]
    assert first == [draws(*stream).random() for stream in streams]
    assert len(set(first)) == len(first)


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_situation_is_a_function_of_the_trials_only(shuffler: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_int("k", 0, 3), n_trials=6)
    trials = list(study.trials)
    first = situation_of(trials, search_space(trials), StudyDirection.MINIMIZE, 5, 6)
    space = list(search_space(trials).items())
    shuffler.shuffle(space)
    second = situation_of(study.trials, dict(space), StudyDirection.MINIMIZE, 5, 6)
    assert first.candidates.digest() == second.candidates.digest()
    assert torch.equal(
        *(
            s.surrogate.log_acquisition(s.surrogate.predict(s.candidates.points))
            for s in (first, second)
        )
    )
    other = situation_of(trials, dict(space), StudyDirection.MINIMIZE, 6, 6)
    assert other.candidates.digest() != first.candidates.digest()


def test_threads_that_compute_on_one_thread_take_turns_and_all_get_theirs_back() -> None:
    before = torch.get_num_threads()
    seen = []

    def compute(name: str) -> None:
        torch.set_num_threads(2)
        with one_thread():
            seen.append((name, torch.get_num_threads()))
        seen.append((name, torch.get_num_threads()))

    try:
        other = threading.Thread(target=compute, args=("other",))
        torch.set_num_threads(2)
        with one_thread():
            other.start()
            compute("nested")
        other.join()
        assert seen[:2] == [("nested", 1), ("nested", 2)]
        assert seen[2:] == [("other", 1), ("other", 2)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
