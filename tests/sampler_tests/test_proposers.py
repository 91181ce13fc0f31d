"""Candidate edits: legal, new, repeatable, and of the kind they say."""

from __future__ import annotations

from histories import generator
from histories import history_of
from histories import random_history
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import pytest
import torch

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


def moved(history: History, candidates: Candidates) -> np.ndarray:
    """(C, D) bool: the slots in which candidates with a parent differ from it."""
    steps = candidates.points - history.at(candidates.parents.clamp(min=0))
    found: np.ndarray = (steps.abs() > 1e-9)[0].numpy()
    return found


def rows(candidates: Candidates, kind: str) -> torch.Tensor:
    """(C,) bool: the candidates of a family."""
    return candidates.kinds[0] == KINDS.index(kind)


@settings(max_examples=50)
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
    space = Space({s: MIXED[s] for s in slots})
    history = random_history(space, n, seed, failures)
    candidates = propose(history, generator(seed), count)
    assert len(candidates) == count and candidates.legal.any()
    assert torch.equal(history.cube.snap(candidates.points), candidates.points)
    legal = [repr(space.decode(p.numpy())) for p in candidates.points[candidates.legal]]
    assert len(set(legal)) == len(legal)
    tried = {repr(space.decode(p.numpy())) for p in history.points[0]}
    assert len(tried) == float(space.cube.size) or not tried.intersection(legal)
    assert ((candidates.parents >= -1) & (candidates.parents < max(n, 1))).all()
    edits = candidates.parents[candidates.parents >= 0]
    assert history.ran[0, edits].all()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 256])
def test_in_a_wide_space_nearly_all_candidates_are_legal(count: int) -> None:
    candidates = propose(random_history(Space(MIXED), 30), generator(0), count)
    assert len(candidates) == count and candidates.legal.sum() >= 0.7 * count


def test_studies_of_a_batch_have_candidates_of_their_own() -> None:
    space = Space(MIXED)
    twice = random_history(space, 20)[torch.tensor([0, 0])]
    candidates = propose(twice, generator(0))
    assert not torch.equal(candidates.points[0], candidates.points[1])
    for row in range(2):
        one = torch.tensor([row])
        parents = candidates[one].parents
        assert set(parents[parents >= 0].tolist()) <= set(twice.ranking[row, :4].tolist())


def test_the_seed_and_the_history_decide_the_candidates() -> None:
    history, other = random_history(Space(MIXED), 30), random_history(Space(MIXED), 29)
    digest = propose(history, generator(1)).digest()
    assert propose(history, generator(1)).digest() == digest
    assert propose(history, generator(2)).digest() != digest
    assert propose(other, generator(1)).digest() != digest


def test_every_family_contributes_once_enough_trials_ran() -> None:
    candidates = propose(random_history(Space(MIXED), 30), generator(0))
    shares = np.bincount(candidates.kinds[0], minlength=len(KINDS)) / len(candidates)
    assert shares == pytest.approx([1 / 16, 0.45, 0.15, 0.2, 0.2], abs=0.08)


def test_while_nothing_ran_candidates_come_from_the_whole_space() -> None:
    for history in (
        random_history(Space(MIXED), 0),
        random_history(Space(MIXED), 5, failures=1.0),
    ):
        candidates = propose(history, generator(0))
        assert (candidates.kinds == KINDS.index("global_draw")).all()
        assert (candidates.parents == -1).all()


def test_only_the_four_best_trials_are_edited() -> None:
    history = random_history(Space(MIXED), 40)
    parents = propose(history, generator(0)).parents
    best = history.losses[0].argsort()[:4]
    assert set(parents[parents >= 0].tolist()) == set(best.tolist())


def test_a_local_move_changes_one_to_five_slots_and_never_a_fixed_one() -> None:
    history = random_history(Space(MIXED), 1, failures=0.0)
    candidates = propose(history, generator(0), 2000)
    changes = moved(history, candidates)[rows(candidates, "local_move")]
    names = sorted(MIXED)
    assert set(changes.sum(axis=1)) == {1, 2, 3, 4, 5}
    assert not changes[:, names.index("fixed")].any()
    free = [j for j, name in enumerate(names) if name != "fixed"]
    alone = changes[changes.sum(axis=1) == 1]
    assert alone[:, free].any(axis=0).all(), "every slot is also moved on its own"


def test_a_recombination_takes_every_slot_from_one_of_two_good_trials() -> None:
    history = random_history(Space(MIXED), 20)
    candidates = propose(history, generator(0))
    best = history.points[0, history.losses[0].argsort()[:4]]
    children = rows(candidates, "recombination")
    parents = history.points[0, candidates.parents[0, children]]
    for child, parent in zip(candidates.points[0, children], parents, strict=True):
        assert any(((child == parent) | (child == other)).all() for other in best)


def test_momentum_goes_on_along_the_parent_s_own_edit() -> None:
    space = Space({f"x{i}": FloatDistribution(0.0, 1.0) for i in range(8)})
    points = np.full((3, 8), 0.3)
    points[1, 0], points[2, 1] = 0.4, 0.9
    history = history_of(space, points, np.array([1.0, 0.0, 2.0]), parents=np.array([-1, 0, -1]))
    candidates = propose(history, generator(0), 1000)
    kept = rows(candidates, "momentum")
    assert kept.any() and (candidates.parents[0, kept] == 1).all()
    steps = candidates.points[0, kept, 0].numpy() - 0.4
    unjittered = steps[np.abs(steps) > 0]
    assert np.median(unjittered) == pytest.approx(0.1 * np.sqrt(0.2 * 2.0), rel=0.5)
    assert np.mean((unjittered > 0.019) & (unjittered < 0.201)) > 0.8
    other = np.abs(candidates.points[0, kept, 1:].numpy() - 0.3) > 0
    assert other.mean() == pytest.approx(0.15, abs=0.06)


def test_a_difference_step_points_from_middling_to_good_trials() -> None:
    space = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)})
    x = np.linspace(0.2, 0.5, 12)  # the loss falls as x grows; y does not matter and never moves
    history = history_of(space, np.stack([x, np.full(12, 0.5)], axis=1), -x)
    candidates = propose(history, generator(0))
    steps = (candidates.points - history.at(candidates.parents.clamp(min=0)))[0]
    kept = rows(candidates, "difference")
    assert kept.any() and (steps[kept, 0] > -0.05).all() and (steps[kept, 1] == 0.0).all()


def test_the_last_untried_point_of_a_large_grid_is_found() -> None:
    space = Space({"x": IntDistribution(0, 99), "y": IntDistribution(0, 49)})
    grid = np.stack(np.meshgrid((np.arange(100) + 0.5) / 100, (np.arange(50) + 0.5) / 50), -1)
    points = grid.reshape(-1, 2)
    rest = np.delete(points, 3210, axis=0)
    history = history_of(space, rest, rest.sum(axis=1))
    candidates = propose(history, generator(0))
    np.testing.assert_allclose(candidates.points[candidates.legal], points[[3210]])


def test_repeats_are_allowed_once_everything_was_tried() -> None:
    space = Space({"x": IntDistribution(0, 2)})
    history = random_history(space, 60, failures=0.0)
    assert history.exhausted.all()
    assert propose(history, generator(0)).legal.sum() == 3


@pytest.mark.parametrize("distributions", [{}, {"x": IntDistribution(3, 3)}])
def test_a_space_of_one_point_has_one_candidate_for_ever(
    distributions: dict[str, BaseDistribution],
) -> None:
    for n in (0, 1, 5):
        history = random_history(Space(distributions), n, failures=0.0)
        assert propose(history, generator(0)).legal.sum() == 1
