"""The guarantee of docs/theory.md: full support and a monotone best, on a finite toy space."""

from __future__ import annotations

import itertools

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import torch

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import candidate_features
from optuna_arrl.sampler.policy import EXPLORATION_FLOOR
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.proposers import propose
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.surrogate import Surrogate


torch.set_num_threads(1)

TOY = Space(
    {
        "activation": CategoricalDistribution(["relu", "gelu"]),
        "depth": IntDistribution(1, 4),
        "rate": FloatDistribution(0.1, 0.3, step=0.1),
    }
)
LEGAL = TOY.at(np.array(list(itertools.product(range(2), range(4), range(3)))))


def history_of(rows: list[int], losses: list[float]) -> History:
    n = len(rows)
    return History(
        space=TOY,
        numbers=np.arange(n),
        points=LEGAL[rows].reshape(n, 3),
        losses=np.array(losses, float),
        ran=np.isfinite(losses),
        parents=np.arange(n) - 1,
        kinds=np.full(n, -1),
    )


def hostile_network() -> PolicyNetwork:
    """A network of large random weights: sure of one candidate, for no good reason."""
    network = PolicyNetwork()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 3.0 * torch.randn(weight.shape, generator=generator)
    return network


HOSTILE = hostile_network()


def stubborn_policy(
    history: History, surrogate: Surrogate, seed: int, count: int
) -> tuple[list[bytes], np.ndarray]:
    """Candidates and the probabilities that a hostile network gives them."""
    candidates = propose(history, np.random.default_rng(seed), count)
    state = candidate_features(history, candidates, surrogate)
    with torch.no_grad():
        shares = action_distribution(HOSTILE(state).logits.double(), state.mask).exp().numpy()
    return TOY.keys(candidates.points), shares


def test_every_untried_edit_has_positive_probability_whatever_the_policy_prefers() -> None:
    keys = dict(zip(TOY.keys(LEGAL), range(24), strict=True))
    count, draws = 8, 400
    for rows in ([], [0], [3, 17, 5, 20], list(range(0, 24, 2)), list(range(23))):
        history = history_of(rows, [float(r) if r % 5 else np.inf for r in rows])
        surrogate = Surrogate.fit(history)
        probability, strongest = np.zeros(24), 0.0
        for seed in range(draws):
            drawn, shares = stubborn_policy(history, surrogate, seed, count)
            np.testing.assert_allclose(shares.sum(), 1.0)
            strongest += shares.max() / draws
            assert (shares >= EXPLORATION_FLOOR / count - 1e-12).all()
            for key, share in zip(drawn, shares, strict=True):
                probability[keys[key]] += share / draws
        assert strongest > 0.9, "the network is hostile: all but sure of one candidate"
        untried = np.setdiff1d(np.arange(24), rows)
        np.testing.assert_allclose(probability[untried].sum(), 1.0)
        # At least one candidate is a uniform draw, and the floor keeps its share of the mass.
        assert (probability[untried] > 0.1 * EXPLORATION_FLOOR / count / 24).all()
        assert (probability[untried] > 0.0).all() and not probability[rows].any()


def test_the_best_never_gets_worse_and_reaches_the_optimum_of_a_finite_space() -> None:
    losses = np.random.default_rng(0).permutation(24).astype(float)
    crashes = losses % 6 == 5
    keys = dict(zip(TOY.keys(LEGAL), range(24), strict=True))
    for seed in range(5):
        rows: list[int] = []
        best: list[float] = []
        for trial in range(24):
            values = [np.inf if crashes[r] else float(losses[r]) for r in rows]
            before = history_of(rows, values)
            drawn, shares = stubborn_policy(before, Surrogate.fit(before), 100 * seed + trial, 8)
            rng = np.random.default_rng([seed, trial])
            rows.append(keys[drawn[rng.choice(len(drawn), p=shares)]])
            history = history_of(rows, [np.inf if crashes[r] else losses[r] for r in rows])
            if history.incumbent is not None:
                best.append(history.losses[history.incumbent])
        assert all(after <= before for before, after in itertools.pairwise(best))
        assert best[-1] == losses[~crashes].min()
        assert sorted(rows) == list(range(24)), "no edit is tried twice while one is untried"


def test_every_region_of_a_continuous_space_stays_possible() -> None:
    space = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(1e-4, 1.0, log=True)})
    rng = np.random.default_rng(0)
    points = 0.01 * rng.random((50, 2))  # all trials so far huddle in one corner
    history = History(
        space,
        np.arange(50),
        points,
        points.sum(axis=1),
        np.ones(50, bool),
        np.arange(50) - 1,
        np.full(50, -1),
    )
    cells = np.zeros((4, 4), int)
    for seed in range(40):
        x, y = np.minimum(propose(history, np.random.default_rng(seed)).points * 4, 3).T
        np.add.at(cells, (x.astype(int), y.astype(int)), 1)
    assert (cells > 10).all()
