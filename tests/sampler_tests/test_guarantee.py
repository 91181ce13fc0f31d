"""The guarantee of docs/theory.md: full support and a monotone best, on a finite toy space."""

from __future__ import annotations

import itertools

from histories import generator
from histories import history_of
import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import torch

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import EXPLORATION_FLOOR
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.proposers import Candidates
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
LEVELS = list(itertools.product(range(2), range(4), range(3)))
LEGAL = TOY.cube.at(torch.tensor([LEVELS], dtype=torch.float64))[0].numpy()


def toy_history(rows: list[int], losses: list[float]) -> History:
    values = np.array(losses, float)
    parents = np.arange(len(rows)) - 1
    return history_of(TOY, LEGAL[rows].reshape(-1, 3), values, np.isfinite(values), parents)


def keys(points: torch.Tensor) -> list[int]:
    """One number a point (n, 3)."""
    found: list[int] = TOY.cube.keys(points[None])[0].tolist()
    return found


def hostile_network() -> PolicyNetwork:
    """A network of large random weights: sure of one candidate, for no good reason."""
    network = PolicyNetwork()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 3.0 * torch.randn(weight.shape, generator=generator)
    return network


HOSTILE = hostile_network()


def stubborn_policy(history: History, seed: int, count: int) -> tuple[Candidates, torch.Tensor]:
    """Candidates and the probabilities (B, C) that a hostile network gives them."""
    candidates = propose(history, generator(seed), count)
    state = policy_input(history, candidates, Surrogate(history))
    with torch.no_grad():
        logits = HOSTILE(state).logits.double()
    return candidates, action_distribution(logits, state.mask).exp()


def test_every_untried_edit_has_positive_probability_whatever_the_policy_prefers() -> None:
    index = dict(zip(keys(torch.from_numpy(LEGAL)), range(24), strict=True))
    count, draws = 8, 400
    for rows in ([], [0], [3, 17, 5, 20], list(range(0, 24, 2)), list(range(23))):
        history = toy_history(rows, [float(r) if r % 5 else np.inf for r in rows])
        many = history[torch.zeros(draws, dtype=torch.int64)]
        candidates, shares = stubborn_policy(many, 0, count)
        torch.testing.assert_close(shares.sum(1), torch.ones(draws, dtype=torch.float64))
        assert shares.max(1).values.mean() > 0.9, "hostile: all but sure of one candidate"
        assert (shares[candidates.legal] >= EXPLORATION_FLOOR / count - 1e-12).all()
        probability = np.zeros(24)
        drawn = keys(candidates.points[candidates.legal])
        for key, share in zip(drawn, shares[candidates.legal].tolist(), strict=True):
            probability[index[key]] += share / draws
        untried = np.setdiff1d(np.arange(24), rows)
        np.testing.assert_allclose(probability[untried].sum(), 1.0)
        # At least one candidate is a uniform draw, and the floor keeps its share of the mass.
        assert (probability[untried] > 0.1 * EXPLORATION_FLOOR / count / 24).all()
        assert (probability[untried] > 0.0).all() and not probability[rows].any()


def test_the_best_never_gets_worse_and_reaches_the_optimum_of_a_finite_space() -> None:
    losses = np.random.default_rng(0).permutation(24).astype(float)
    crashes = losses % 6 == 5
    index = dict(zip(keys(torch.from_numpy(LEGAL)), range(24), strict=True))
    for seed in range(5):
        rows: list[int] = []
        best: list[float] = []
        for trial in range(24):
            values = [np.inf if crashes[r] else float(losses[r]) for r in rows]
            before = toy_history(rows, values)
            candidates, shares = stubborn_policy(before, 100 * seed + trial, 8)
            drawn = int(torch.multinomial(shares, 1, generator=generator(24 * seed + trial)))
            rows += [index[keys(candidates.points[:, drawn])[0]]]
            history = toy_history(rows, [np.inf if crashes[r] else losses[r] for r in rows])
            if history.number_ran > 0:
                best.append(float(history.losses[0, history.ranking[0, 0]]))
        assert all(after <= before for before, after in itertools.pairwise(best))
        assert best[-1] == losses[~crashes].min()
        assert sorted(rows) == list(range(24)), "no edit is tried twice while one is untried"


def test_every_region_of_a_continuous_space_stays_possible() -> None:
    space = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(1e-4, 1.0, log=True)})
    rng = np.random.default_rng(0)
    points = 0.01 * rng.random((50, 2))  # all trials so far huddle in one corner
    history = history_of(space, points, points.sum(axis=1), parents=np.arange(50) - 1)
    cells = np.zeros((4, 4), int)
    for seed in range(40):
        x, y = np.minimum(propose(history, generator(seed)).points[0].numpy() * 4, 3).T
        np.add.at(cells, (x.astype(int), y.astype(int)), 1)
    assert (cells > 10).all()
