"""The Gaussian processes: right by formula, pure, scale-free, and useful."""

from __future__ import annotations

import math

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
import pytest
import torch

from optuna_arrl.sampler import surrogate as module
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.surrogate import Surrogate
from optuna_arrl.sampler.surrogate import Warp


torch.set_num_threads(1)

SQUARE = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)})


def history_of(
    points: np.ndarray, losses: np.ndarray, ran: np.ndarray | None = None, space: Space = SQUARE
) -> History:
    n = len(points)
    ran = np.ones(n, bool) if ran is None else ran
    none = np.full(n, -1)
    losses = np.where(ran, losses, np.inf)
    return History(space, np.arange(n), points, losses, ran, none, none)


def bowl(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(seed).random((n, 2))
    return points, ((points - [0.3, 0.6]) ** 2).sum(axis=1)


def matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r = np.sqrt(5.0) * np.linalg.norm(a[:, None] - b[None], axis=-1)
    return (1 + r + r**2 / 3) * np.exp(-r)


def test_the_posterior_is_that_of_the_textbook() -> None:
    points = np.array([[0.1, 0.2], [0.5, 0.4], [0.9, 0.7]])
    surrogate = Surrogate.fit(history_of(points, np.array([3.0, 1.0, 2.0])))
    # By hand: best 1, median 2, gap 1; log(y - 1 + 1) = log 3, 0, log 2; standardised.
    logs = np.log([3.0, 1.0, 2.0])
    targets = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(surrogate.warped, targets, atol=1e-12)

    query = np.array([[0.3, 0.3], [0.5, 0.4], [0.0, 1.0]])
    lengthscales, scale = np.exp(surrogate.log_lengthscales), math.exp(surrogate.log_scale)
    noise = math.exp(surrogate.log_noise) + 5e-4 * scale
    k = scale * matern(points / lengthscales, points / lengthscales) + noise * np.eye(3)
    cross = scale * matern(query / lengthscales, points / lengthscales)
    mean = 0.3 + cross @ np.linalg.solve(k, targets - 0.3)  # the prior mean is pessimistic: .3
    sd = np.sqrt(scale - np.einsum("ij,ji->i", cross, np.linalg.solve(k, cross.T)))
    got_mean, got_sd, _ = surrogate.predict(query)
    np.testing.assert_allclose(got_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(got_sd, sd, rtol=1e-4)
    at_trials = 0.3 + scale * matern(points / lengthscales, points / lengthscales) @ (
        np.linalg.solve(k, targets - 0.3)
    )
    assert surrogate.best == pytest.approx(0.9 * at_trials.min() + 0.1 * targets.min(), rel=1e-5)


def test_the_objective_is_the_likelihood_times_the_prior() -> None:
    rng = np.random.default_rng(0)
    features, slots = torch.from_numpy(rng.random((1, 5, 2))), torch.tensor([0, 1])
    targets = torch.from_numpy(rng.standard_normal((1, 5)))
    prior = module._Prior(torch.tensor([[-1.3]]), torch.tensor([[-3.5]]))

    def objective(lengthscale: float, noise: float, scale: float) -> float:
        theta = module._Hyperparameters(
            torch.full((1, 2), lengthscale, dtype=torch.float64),
            torch.tensor([[noise]], dtype=torch.float64),
            torch.tensor([[scale]], dtype=torch.float64),
        )
        known = torch.ones_like(targets)
        args = (theta, prior, features, slots, targets, known)
        return float(module._negative_log_posterior(*args))

    def by_formula(lengthscale: float, noise: float, scale: float) -> float:
        scaled = features[0].numpy() * math.exp(-lengthscale)
        own = math.exp(noise) + 5e-4 * math.exp(scale)
        covariance = math.exp(scale) * matern(scaled, scaled) + own * np.eye(5)
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(5, dtype=torch.float64), torch.from_numpy(covariance)
        )
        expected = -1.3 + 0.5 * math.log(2)
        prior = 2 * 0.5 * (lengthscale - expected) ** 2
        prior += 0.5 * ((noise + 3.5) / 1.5) ** 2 + 0.5 * (scale / 0.5) ** 2
        return -float(normal.log_prob(targets[0])) + prior

    one, two = (-1.0, -3.0, 0.2), (0.3, -4.5, -0.4)
    assert objective(*one) - objective(*two) == pytest.approx(by_formula(*one) - by_formula(*two))


def test_the_fit_is_where_the_objective_is_flat() -> None:
    points, losses = bowl(30)
    losses += 0.05 * np.random.default_rng(1).standard_normal(30)  # else no noise is too little
    surrogate = Surrogate.fit(history_of(points, losses))
    targets = torch.from_numpy(surrogate.warped - 0.3)[None]
    prior = module._Prior(*(part[:1] for part in module._PRIOR))

    def objective(shift: np.ndarray) -> float:
        theta = module._Hyperparameters(
            torch.from_numpy(surrogate.log_lengthscales + shift[:2])[None],
            torch.tensor([[surrogate.log_noise + shift[2]]], dtype=torch.float64),
            torch.tensor([[surrogate.log_scale + shift[3]]], dtype=torch.float64),
        )
        known = torch.ones_like(targets)
        data = (torch.from_numpy(points)[None], torch.tensor([0, 1]), targets, known)
        return float(module._negative_log_posterior(theta, prior, *data))

    steps = 0.01 * np.eye(4)
    slopes = [(objective(step) - objective(-step)) / 0.02 for step in steps]
    np.testing.assert_allclose(slopes, 0.0, atol=0.3)
    assert objective(np.zeros(4)) < min(
        objective(30 * sign * e) for e in steps for sign in (-1, 1)
    )


def test_the_better_half_of_a_bowl_promises_more() -> None:
    points, losses = bowl(25)
    surrogate = Surrogate.fit(history_of(points, losses))
    grid = np.random.default_rng(5).random((400, 2))
    truth = ((grid - [0.3, 0.6]) ** 2).sum(axis=1)
    better = truth < np.median(truth)
    mean, _, _ = surrogate.predict(grid)
    assert np.mean((mean < np.median(mean)) == better) > 0.9
    acquisition = surrogate.log_acquisition(grid)
    assert truth[acquisition.argmax()] < 0.01
    assert acquisition[better].mean() > acquisition[~better].mean() + 1.0


def test_edits_near_crashes_are_expected_to_crash() -> None:
    points, losses = bowl(40)
    crashed = points[:, 0] > 0.7
    surrogate = Surrogate.fit(history_of(points, losses, ~crashed))
    _, _, p_runs = surrogate.predict(np.array([[0.9, 0.5], [0.2, 0.5]]))
    assert p_runs[0] < 0.2 and p_runs[1] > 0.9
    _, _, untold = Surrogate.fit(history_of(points, losses)).predict(np.array([[0.9, 0.5]]))
    assert untold[0] > 0.9


def test_a_crash_teaches_the_value_process_nothing() -> None:
    points, losses = bowl(12)
    ran = np.arange(12) != 4
    surrogate = Surrogate.fit(history_of(points, losses, ran))
    without = Surrogate.fit(history_of(points[ran], losses[ran]))
    query = np.random.default_rng(1).random((20, 2))
    for mine, theirs in zip(surrogate.predict(query)[:2], without.predict(query)[:2], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_a_fit_is_a_function_of_the_history_alone() -> None:
    history = history_of(*bowl(15))
    query = np.random.default_rng(1).random((20, 2))
    first = Surrogate.fit(history).log_acquisition(query)
    Surrogate.fit(history_of(*bowl(30, seed=3)))
    np.testing.assert_array_equal(Surrogate.fit(history).log_acquisition(query), first)


@settings(deadline=None, max_examples=20)
@given(unit=st.floats(1e-6, 1e6), origin=st.floats(-1e6, 1e6))
def test_unit_and_origin_of_the_objective_make_no_difference(unit: float, origin: float) -> None:
    points, losses = bowl(8)
    losses = np.round(losses * 1024) / 1024
    moved = unit * (losses + origin / unit)
    query = np.random.default_rng(1).random((20, 2))
    plain = Surrogate.fit(history_of(points, losses))
    other = Surrogate.fit(history_of(points, moved))
    tolerance = 1e-3 + 1e-7 * abs(origin) / unit  # digits lost beside a large origin
    if tolerance > 0.05:
        return
    np.testing.assert_allclose(
        other.log_acquisition(query), plain.log_acquisition(query), atol=tolerance
    )
    gain, other_gain = plain.expected_gain(query), other.expected_gain(query)
    assert gain is not None and other_gain is not None
    np.testing.assert_allclose(other_gain / unit, gain, atol=tolerance)


@example([0.0, 4e127, 2e-181])  # the median gap is nothing beside the largest
@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=20, unique=True))
def test_the_warp_keeps_order_and_can_be_undone(losses: list[float]) -> None:
    warp = Warp.of(np.array(losses))
    assert warp is not None
    ordered = np.sort(losses)
    warped = warp(ordered)
    assert np.isfinite(warped).all() and (np.diff(warped) >= 0.0).all()
    spread = ordered[-1] / 2 - ordered[0] / 2
    np.testing.assert_allclose(warp.inverse(warped) / spread, ordered / spread, atol=1e-6)


def test_expected_gain_is_the_mean_of_the_improvements() -> None:
    points, losses = bowl(30)
    ran = points[:, 0] < 0.5
    surrogate = Surrogate.fit(history_of(points, losses, ran))
    query = np.array([[0.3, 0.6], [0.45, 0.6], [0.55, 0.6]])
    mean, sd, p_runs = surrogate.predict(query)
    draws = mean + sd * np.random.default_rng(2).standard_normal((200_000, 3))
    warp = Warp.of(losses[ran])
    assert warp is not None and p_runs[2] < 0.8 < p_runs[0]
    improvement = np.maximum(losses[ran].min() - warp.inverse(draws), 0.0).mean(axis=0)
    expected = p_runs * improvement
    np.testing.assert_allclose(surrogate.expected_gain(query), expected, rtol=0.1, atol=1e-6)


def test_the_acquisition_is_expected_improvement_discounted_by_crashes() -> None:
    points, losses = bowl(30)
    surrogate = Surrogate.fit(history_of(points, losses, points[:, 0] < 0.5))
    query = np.random.default_rng(1).random((6, 2))
    mean, sd, p_runs = surrogate.predict(query)
    z = np.linspace(-12.0, 12.0, 400_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    # An edit counts as better when it beats the best by .1; the sd is taken 1.2 times as wide.
    gains = np.maximum(surrogate.best - 0.1 - mean - 1.2 * sd * z[:, None], 0.0)
    improvement = np.trapezoid(gains * density[:, None], z, axis=0)
    expected = np.log(improvement) + 2.5 * np.log(p_runs)
    likely = improvement > 1e-12
    assert likely.sum() >= 3
    np.testing.assert_allclose(
        surrogate.log_acquisition(query)[likely], expected[likely], atol=1e-3
    )


def test_nothing_is_known_of_gains_before_two_losses_differ() -> None:
    query = np.random.default_rng(1).random((5, 2))
    for losses in ([], [1.0], [1.0, 1.0]):
        points = np.random.default_rng(0).random((len(losses), 2))
        assert Surrogate.fit(history_of(points, np.array(losses))).expected_gain(query) is None


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("crashes", ["none", "all"])
def test_few_or_failed_trials_give_finite_answers(n: int, crashes: str) -> None:
    points, losses = bowl(n)
    surrogate = Surrogate.fit(history_of(points, losses, np.full(n, crashes == "none")))
    query = np.random.default_rng(1).random((7, 2))
    assert all(np.isfinite(part).all() for part in surrogate.predict(query))
    assert np.isfinite(surrogate.log_acquisition(query)).all()


def test_repeats_of_a_point_are_averaged() -> None:
    points = np.repeat([[0.2, 0.2], [0.8, 0.8]], 20, axis=0)
    losses = np.concatenate([np.linspace(0.9, 1.1, 20), np.linspace(1.9, 2.1, 20)])
    surrogate = Surrogate.fit(history_of(points, losses))
    mean, sd, _ = surrogate.predict(points[[0, -1]])
    groups = surrogate.warped.reshape(2, 20).mean(axis=1)
    np.testing.assert_allclose(mean, groups, atol=0.1)
    assert (sd < 0.3).all()


def test_choices_alone_can_be_learned() -> None:
    space = Space({"a": CategoricalDistribution(["p", "q", "r"])})
    points = space.at(np.array([[0.0], [1.0], [2.0]] * 3))
    surrogate = Surrogate.fit(history_of(points, np.tile([2.0, 1.0, 3.0], 3), space=space))
    assert surrogate.predict(points[:3])[0].argsort().tolist() == [1, 0, 2]


def test_a_space_without_slots_has_a_surrogate() -> None:
    space = Space({})
    surrogate = Surrogate.fit(history_of(np.empty((3, 0)), np.arange(3.0), space=space))
    assert np.isfinite(surrogate.log_acquisition(np.empty((1, 0)))).all()


def test_long_histories_keep_their_best_and_their_latest_trials() -> None:
    points, losses = bowl(700)
    losses[:30] -= 10.0
    surrogate = Surrogate.fit(history_of(points, losses))
    assert len(surrogate.trials) == 256
    assert set(range(30)) <= set(surrogate.trials) and set(range(560, 700)) <= set(
        surrogate.trials
    )


def test_log_improvement_agrees_with_the_integral_and_with_its_tail() -> None:
    u = np.array([-4.0, -1.0, 0.0, 0.5, 3.0])
    z = np.linspace(-12.0, 12.0, 400_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    integral = [np.trapezoid(np.maximum(x - z, 0.0) * density, z) for x in u]
    np.testing.assert_allclose(module._log_improvement(u), np.log(integral), atol=1e-6)
    far = np.array([-60.0, -500.0])
    tail = -(far**2) / 2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(-far)  # φ(u) / u²
    np.testing.assert_allclose(module._log_improvement(far), tail, atol=2e-3)
