"""Candidate edits: legal, new, repeatable, and of the kind they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import pytest

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.proposers import KINDS
from optuna_arrl.sampler.proposers import propose
from optuna_arrl.sampler.space import Space


MIXED: dict[str, BaseDistribution] = {
    "choice": CategoricalDistribution(["a", "b", "c"]),
    "fixed": IntDistribution(7, 7),
    "grid": FloatDistribution(0.0, 1.0, step=0.1),
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "share": FloatDistribution(-1.0, 1.0),
    "size": IntDistribution(1, 512, log=True),
    "whole": IntDistribution(0, 20, step=2),
}


def random_history(space: Space, n: int, seed: int = 0, failures: float = 0.2) -> History:
    """n random points in a chain of edits, each the child of the one before."""
    rng = np.random.default_rng(seed)
    ran = rng.random(n) >= failures
    return History(
        space=space,
        numbers=np.arange(n),
        points=space.snap(rng.random((n, space.dim))),
        losses=np.where(ran, rng.standard_normal(n), np.inf),
        ran=ran,
        parents=np.arange(n) - 1,
        kinds=np.full(n, -1),
    )


def moved(history: History, candidates: Candidates) -> np.ndarray:
    """(C, D) bool: the slots in which candidates with a parent differ from it."""
    return np.abs(candidates.points - history.points[candidates.parents]) > 1e-9


@settings(deadline=None, max_examples=50)
@given(
    slots=st.sets(st.sampled_from(sorted(MIXED))),
    n=st.integers(0, 40),
    failures=st.sampled_from([0.0, 0.3, 1.0]),
    count=st.integers(1, 64),
    seed=st.integers(0, 2**32 - 1),
)
def test_candidates_are_legal_different_and_new(
    slots: set[str], n: int, failures: float, count: int, seed: int
) -> None:
    history = random_history(Space({s: MIXED[s] for s in slots}), n, seed, failures)
    candidates = propose(history, np.random.default_rng(seed), count)
    assert 1 <= len(candidates) <= count
    np.testing.assert_array_equal(history.space.snap(candidates.points), candidates.points)
    keys = history.space.keys(candidates.points)
    assert len(set(keys)) == len(keys)
    assert history.exhausted or not history.tried.intersection(keys)
    assert ((candidates.parents >= -1) & (candidates.parents < n)).all()
    edits = candidates.parents >= 0
    assert history.ran[candidates.parents[edits]].all()
    if n:
        changed = moved(history, candidates).sum(axis=1)
        np.testing.assert_array_equal(candidates.changed[edits], changed[edits])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 256])
def test_a_wide_space_gives_as_many_candidates_as_asked_for(count: int) -> None:
    history = random_history(Space(MIXED), 30)
    assert len(propose(history, np.random.default_rng(0), count)) == count


def test_the_seed_and_the_history_decide_the_candidates() -> None:
    history, other = random_history(Space(MIXED), 30), random_history(Space(MIXED), 29)
    digest = propose(history, np.random.default_rng(1)).digest()
    assert propose(history, np.random.default_rng(1)).digest() == digest
    assert propose(history, np.random.default_rng(2)).digest() != digest
    assert propose(other, np.random.default_rng(1)).digest() != digest


def test_every_family_contributes_once_enough_trials_ran() -> None:
    candidates = propose(random_history(Space(MIXED), 30), np.random.default_rng(0))
    shares = np.bincount(candidates.kinds, minlength=len(KINDS)) / len(candidates)
    assert shares == pytest.approx([1 / 16, 0.45, 0.15, 0.2, 0.2], abs=0.08)


def test_while_nothing_ran_candidates_come_from_the_whole_space() -> None:
    for history in (
        random_history(Space(MIXED), 0),
        random_history(Space(MIXED), 5, failures=1.0),
    ):
        candidates = propose(history, np.random.default_rng(0))
        assert (candidates.kinds == KINDS.index("global_draw")).all()
        assert (candidates.parents == -1).all() and (candidates.step == 1.0).all()


def test_only_the_four_best_trials_are_edited() -> None:
    history = random_history(Space(MIXED), 40)
    candidates = propose(history, np.random.default_rng(0))
    best = np.argsort(history.losses)[:4]
    assert set(candidates.parents[candidates.parents >= 0]) == set(best)


def test_a_local_move_changes_one_to_five_slots_and_never_a_fixed_one() -> None:
    history = random_history(Space(MIXED), 1, failures=0.0)
    candidates = propose(history, np.random.default_rng(0), 2000)
    local = candidates.kinds == KINDS.index("local_move")
    changes = moved(history, candidates)
    assert set(candidates.changed[local]) == {1, 2, 3, 4, 5}
    assert not changes[:, history.space.names.index("fixed")].any()
    free = [j for j, name in enumerate(history.space.names) if name != "fixed"]
    alone = changes[local & (candidates.changed == 1)]
    assert alone[:, free].any(axis=0).all(), "every slot is also moved on its own"


def test_a_recombination_takes_every_slot_from_one_of_two_good_trials() -> None:
    history = random_history(Space(MIXED), 20)
    candidates = propose(history, np.random.default_rng(0))
    best = history.points[np.argsort(history.losses)[:4]]
    for i in np.flatnonzero(candidates.kinds == KINDS.index("recombination")):
        parent = history.points[candidates.parents[i]]
        from_parent = candidates.points[i] == parent
        assert any((from_parent | (candidates.points[i] == other)).all() for other in best)


def test_momentum_goes_on_along_the_parent_s_own_edit() -> None:
    space = Space({f"x{i}": FloatDistribution(0.0, 1.0) for i in range(8)})
    points = np.full((3, 8), 0.3)
    points[1, 0], points[2, 1] = 0.4, 0.9
    history = History(
        space,
        np.arange(3),
        points,
        np.array([1.0, 0.0, 2.0]),
        np.ones(3, bool),
        np.array([-1, 0, -1]),
        np.full(3, -1),
    )
    candidates = propose(history, np.random.default_rng(0))
    kept = candidates.kinds == KINDS.index("momentum")
    assert kept.any() and (candidates.parents[kept] == 1).all()
    steps = candidates.points[kept, 0] - 0.4
    unjittered = steps[np.abs(steps) > 0]
    assert np.median(unjittered) == pytest.approx(0.1 * np.sqrt(0.2 * 2.0), rel=0.5)
    assert np.mean((unjittered > 0.019) & (unjittered < 0.201)) > 0.8
    other = np.abs(candidates.points[kept, 1:] - 0.3) > 0
    assert other.mean() == pytest.approx(0.15, abs=0.06)


def test_a_difference_step_points_from_middling_to_good_trials() -> None:
    space = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)})
    x = np.linspace(0.2, 0.5, 12)  # the loss falls as x grows; y does not matter and never moves
    history = History(
        space,
        np.arange(12),
        np.stack([x, np.full(12, 0.5)], axis=1),
        -x,
        np.ones(12, bool),
        np.full(12, -1),
        np.full(12, -1),
    )
    candidates = propose(history, np.random.default_rng(0))
    steps = candidates.points - history.points[candidates.parents]
    kept = candidates.kinds == KINDS.index("difference")
    assert kept.any() and (steps[kept, 0] > -0.05).all() and (steps[kept, 1] == 0.0).all()


def test_the_last_untried_point_of_a_large_grid_is_found() -> None:
    space = Space({"x": IntDistribution(0, 99), "y": IntDistribution(0, 49)})
    grid = np.stack(np.meshgrid((np.arange(100) + 0.5) / 100, (np.arange(50) + 0.5) / 50), -1)
    points = grid.reshape(-1, 2)
    rest = np.delete(points, 3210, axis=0)
    history = History(
        space,
        np.arange(4999),
        rest,
        rest.sum(axis=1),
        np.ones(4999, bool),
        np.full(4999, -1),
        np.full(4999, -1),
    )
    candidates = propose(history, np.random.default_rng(0))
    np.testing.assert_allclose(candidates.points, points[[3210]])


def test_repeats_are_allowed_once_everything_was_tried() -> None:
    space = Space({"x": IntDistribution(0, 2)})
    history = random_history(space, 60, failures=0.0)
    assert history.exhausted
    assert len(propose(history, np.random.default_rng(0))) == 3


@pytest.mark.parametrize("distributions", [{}, {"x": IntDistribution(3, 3)}])
def test_a_space_of_one_point_has_one_candidate_for_ever(
    distributions: dict[str, BaseDistribution],
) -> None:
    for n in (0, 1, 5):
        history = random_history(Space(distributions), n, failures=0.0)
        assert len(propose(history, np.random.default_rng(0))) == 1
