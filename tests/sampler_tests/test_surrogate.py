"""The Gaussian processes: right by formula, pure, scale-free, and useful."""

from __future__ import annotations

import math

from histories import generator
from histories import history_of
from histories import random_history
from hypothesis import assume
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
from optuna_arrl.sampler.cube import Cube
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.surrogate import fit
from optuna_arrl.sampler.surrogate import fitted_trials
from optuna_arrl.sampler.surrogate import Hyperparameters
from optuna_arrl.sampler.surrogate import kept_trials
from optuna_arrl.sampler.surrogate import log_improvement
from optuna_arrl.sampler.surrogate import negative_log_posterior
from optuna_arrl.sampler.surrogate import Surrogate
from optuna_arrl.sampler.surrogate import Warp


torch.set_num_threads(1)

SQUARE = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)})


def surrogate_of(
    points: np.ndarray, losses: np.ndarray, ran: np.ndarray | None = None, space: Space = SQUARE
) -> Surrogate:
    return Surrogate(history_of(space, points, losses, ran))


def predict(surrogate: Surrogate, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, sd and P(runs) at points (C, D)."""
    prediction = surrogate.predict(torch.from_numpy(points)[None])
    return tuple(part[0].numpy() for part in prediction[:3])


def acquisition(surrogate: Surrogate, points: np.ndarray) -> np.ndarray:
    prediction = surrogate.predict(torch.from_numpy(points)[None])
    values: np.ndarray = surrogate.log_acquisition(prediction)[0].numpy()
    return values


def gain(surrogate: Surrogate, points: np.ndarray) -> np.ndarray:
    prediction = surrogate.predict(torch.from_numpy(points)[None])
    values: np.ndarray = surrogate.expected_gain(prediction)[0].numpy()
    return values


def warp_of(losses: np.ndarray) -> Warp:
    return Warp.of(torch.from_numpy(losses)[None], torch.ones(1, len(losses), dtype=torch.bool))


def bowl(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(seed).random((n, 2))
    return points, ((points - [0.3, 0.6]) ** 2).sum(axis=1)


def matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r = np.sqrt(5.0) * np.linalg.norm(a[:, None] - b[None], axis=-1)
    return (1 + r + r**2 / 3) * np.exp(-r)


def test_the_posterior_is_that_of_the_textbook() -> None:
    points = np.array([[0.1, 0.2], [0.5, 0.4], [0.9, 0.7]])
    surrogate = surrogate_of(points, np.array([3.0, 1.0, 2.0]))
    # By hand: best 1, median 2, gap 1; log(y - 1 + 1) = log 3, 0, log 2; standardised.
    logs = np.log([3.0, 1.0, 2.0])
    targets = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(surrogate.warped[0], targets, atol=1e-12)

    query = np.array([[0.3, 0.3], [0.5, 0.4], [0.0, 1.0]])
    lengthscales = surrogate.log_lengthscales[0].exp().numpy()
    scale = math.exp(surrogate.theta.scale[0, 0])
    noise = math.exp(surrogate.log_noise) + 5e-4 * scale
    k = scale * matern(points / lengthscales, points / lengthscales) + noise * np.eye(3)
    cross = scale * matern(query / lengthscales, points / lengthscales)
    mean = 0.3 + cross @ np.linalg.solve(k, targets - 0.3)  # the prior mean is pessimistic: .3
    sd = np.sqrt(scale - np.einsum("ij,ji->i", cross, np.linalg.solve(k, cross.T)))
    got_mean, got_sd, _ = predict(surrogate, query)
    np.testing.assert_allclose(got_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(got_sd, sd, rtol=1e-4)
    at_trials = 0.3 + scale * matern(points / lengthscales, points / lengthscales) @ (
        np.linalg.solve(k, targets - 0.3)
    )
    best = 0.9 * at_trials.min() + 0.1 * targets.min()
    assert float(surrogate.best) == pytest.approx(best, rel=1e-5)


def mixed_data(n: int) -> tuple[Cube, module._Data]:
    """Of one study in a space with a choice and a slot that cannot move; one trial crashed."""
    space = Space(
        {
            "a": FloatDistribution(0.0, 1.0),
            "b": CategoricalDistribution(["p", "q", "r"]),
            "c": FloatDistribution(2.0, 2.0),
            "d": FloatDistribution(0.0, 1.0),
        }
    )
    points, losses = space.snap(np.random.default_rng(0).random((n, 4))), np.arange(n) % 5.0
    history = history_of(space, points, losses, np.arange(n) != 2)
    data, _ = module._data(history, kept_trials(history, 64, 192))
    return space.cube, data


def theta_of(cube: Cube, lengthscale: float, noise: float, scale: float) -> Hyperparameters:
    like = cube.start.new_ones(1, 2)
    slopes = torch.linspace(0.0, 0.4, cube.slots, dtype=torch.float64)
    return Hyperparameters(lengthscale + slopes.expand(1, 2, -1), noise * like, scale * like)


def test_the_objective_is_the_likelihood_times_the_prior() -> None:
    cube, data = mixed_data(6)

    def objective(*theta: float) -> float:
        loss, _ = negative_log_posterior(cube, data, theta_of(cube, *theta))
        return float(loss[0, 0])

    def by_formula(*theta: float) -> float:
        lengthscale, noise, scale = (part[0, 0].numpy() for part in theta_of(cube, *theta))
        known = data.known[0, 0].numpy() > 0
        features = data.features[0, 0].numpy()[known]
        scaled = features * np.exp(-lengthscale[[0, 1, 1, 1, 3]])
        own = math.exp(noise) + 5e-4 * math.exp(scale)
        covariance = math.exp(scale) * matern(scaled, scaled) + own * np.eye(known.sum())
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(int(known.sum()), dtype=torch.float64), torch.from_numpy(covariance)
        )
        expected = -1.3 + 0.5 * math.log(3)  # three slots can move
        prior = 0.5 * ((lengthscale[[0, 1, 3]] - expected) ** 2).sum()
        prior += 0.5 * ((noise + 3.5) / 1.5) ** 2 + 0.5 * (scale / 0.5) ** 2
        return float(prior) - float(normal.log_prob(data.targets[0, 0][data.known[0, 0] > 0]))

    one, two = (-1.0, -3.0, 0.2), (0.3, -4.5, -0.4)
    assert objective(*one) - objective(*two) == pytest.approx(by_formula(*one) - by_formula(*two))


def test_the_gradient_is_that_of_the_objective() -> None:
    cube, data = mixed_data(7)
    theta = theta_of(cube, -0.7, -3.0, 0.2)
    _, gradient = negative_log_posterior(cube, data, theta)
    for part, slopes in enumerate(gradient):
        for index in np.ndindex(*slopes.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [x.clone() for x in theta]
                moved[part][index] += step
                loss, _ = negative_log_posterior(cube, data, Hyperparameters(*moved))
                ends.append(float(loss[0, index[1]]))
            numerical = (ends[0] - ends[1]) / 2e-5
            assert float(slopes[index]) == pytest.approx(numerical, abs=1e-5)


def test_the_slope_is_the_derivative_of_the_posterior_mean() -> None:
    points, losses = bowl(12)
    surrogate = surrogate_of(points, losses)
    at, step = np.array([[0.55, 0.35]]), 1e-6
    slopes, known = surrogate.slopes(torch.from_numpy(at))
    for j in range(2):
        shift = step * np.eye(2)[j]
        ends = [predict(surrogate, at + sign * shift)[0][0] for sign in (1, -1)]
        derivative = (ends[0] - ends[1]) / (2 * step)
        per_lengthscale = derivative * math.exp(surrogate.log_lengthscales[0, j])
        assert float(slopes[0, j]) == pytest.approx(per_lengthscale, rel=1e-3, abs=1e-4)
    assert ((known > 0.0) & (known < 1.0)).all()
    _, unknown = surrogate_of(points[:1], losses[:1]).slopes(torch.from_numpy(at))
    assert (unknown < known).all()


def test_the_fit_is_where_the_objective_is_nearly_flat() -> None:
    points, losses = bowl(30)
    losses += 0.05 * np.random.default_rng(1).standard_normal(30)  # else no noise is too little
    history = history_of(SQUARE, points, losses).first(fitted_trials(30))
    theta = fit(history)
    data, _ = module._data(history, kept_trials(history, 64, 192))

    def objective(part: int, step: float) -> float:
        moved = list(theta)
        moved[part] = moved[part] + step
        return float(negative_log_posterior(SQUARE.cube, data, Hyperparameters(*moved))[0][0, 0])

    for part in range(3):
        assert objective(part, 0.0) < min(objective(part, 0.5), objective(part, -0.5))


def test_studies_of_a_batch_are_fitted_as_if_alone() -> None:
    cube = SQUARE.cube[torch.tensor([0, 0])]
    both = [bowl(15), bowl(15, seed=3)]
    histories = [history_of(SQUARE, *one) for one in both]
    history = History(
        cube,
        *(
            torch.cat([getattr(h, name) for h in histories])
            for name in ("points", "losses", "ran", "parents")
        ),
    )
    query = torch.rand(1, 20, 2, generator=generator(0), dtype=torch.float64)
    batch = Surrogate(history).predict(query.expand(2, -1, -1))
    for row, one in enumerate(histories):
        for mine, theirs in zip(batch, Surrogate(one).predict(query), strict=True):
            torch.testing.assert_close(mine[row], theirs[0], rtol=1e-8, atol=1e-8)


def test_hyperparameters_are_fitted_anew_at_the_rungs_of_a_ladder() -> None:
    rungs = [fitted_trials(n) for n in range(10_000)]
    assert rungs[:13] == list(range(13))
    assert all(0.88 * n - 1 <= rung <= n for n, rung in enumerate(rungs))
    assert rungs == sorted(rungs) and len(set(rungs)) < 80
    points, losses = bowl(20)
    history = history_of(SQUARE, points, losses)
    again = Surrogate(history, fit(history.first(fitted_trials(20))))
    assert torch.equal(again.log_lengthscales, Surrogate(history).log_lengthscales)


def test_the_better_half_of_a_bowl_promises_more() -> None:
    points, losses = bowl(25)
    surrogate = surrogate_of(points, losses)
    grid = np.random.default_rng(5).random((400, 2))
    truth = ((grid - [0.3, 0.6]) ** 2).sum(axis=1)
    better = truth < np.median(truth)
    mean, _, _ = predict(surrogate, grid)
    assert np.mean((mean < np.median(mean)) == better) > 0.9
    promise = acquisition(surrogate, grid)
    assert truth[promise.argmax()] < 0.01
    assert promise[better].mean() > promise[~better].mean() + 1.0


def test_edits_near_crashes_are_expected_to_crash() -> None:
    points, losses = bowl(40)
    crashed = points[:, 0] > 0.7
    surrogate = surrogate_of(points, losses, ~crashed)
    _, _, p_runs = predict(surrogate, np.array([[0.9, 0.5], [0.2, 0.5]]))
    assert p_runs[0] < 0.2 and p_runs[1] > 0.9
    _, _, untold = predict(surrogate_of(points, losses), np.array([[0.9, 0.5]]))
    assert untold[0] > 0.9


def test_a_crash_teaches_the_value_process_nothing() -> None:
    points, losses = bowl(12)
    ran = np.arange(12) != 4
    surrogate = surrogate_of(points, losses, ran)
    without = surrogate_of(points[ran], losses[ran])
    query = np.random.default_rng(1).random((20, 2))
    both = (predict(x, query)[:2] for x in (surrogate, without))
    for mine, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_a_fit_is_a_function_of_the_history_alone() -> None:
    query = np.random.default_rng(1).random((20, 2))
    first = acquisition(surrogate_of(*bowl(15)), query)
    surrogate_of(*bowl(30, seed=3))
    np.testing.assert_array_equal(acquisition(surrogate_of(*bowl(15)), query), first)


@settings(max_examples=20)
@given(unit=st.floats(1e-6, 1e6), origin=st.floats(-1e6, 1e6))
def test_unit_and_origin_of_the_objective_make_no_difference(unit: float, origin: float) -> None:
    points, losses = bowl(8)
    losses = np.round(losses * 1024) / 1024
    moved = unit * (losses + origin / unit)
    query = np.random.default_rng(1).random((20, 2))
    plain, other = surrogate_of(points, losses), surrogate_of(points, moved)
    tolerance = 1e-3 + 1e-7 * abs(origin) / unit  # digits lost beside a large origin
    if tolerance > 0.05:
        return
    np.testing.assert_allclose(
        acquisition(other, query), acquisition(plain, query), atol=tolerance
    )
    np.testing.assert_allclose(gain(other, query) / unit, gain(plain, query), atol=tolerance)


@example([0.0, 1e-323])
@example([0.0, 4e127, 2e-181])  # the median gap is nothing beside the largest
@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=20, unique=True))
def test_the_warp_keeps_order_and_can_be_undone(losses: list[float]) -> None:
    ordered = np.sort(losses)
    warp = warp_of(np.array(losses))
    warped = warp(torch.from_numpy(ordered)[None])
    assert warped.isfinite().all() and (warped.diff() >= 0.0).all()
    spread = ordered[-1] / 2 - ordered[0] / 2
    assume(spread > 1e-300)  # far below, floats have too few digits to tell losses apart
    assert warp.defined.all()
    undone = warp.inverse(warped)[0].numpy()
    np.testing.assert_allclose(undone / spread, ordered / spread, atol=1e-6)


@pytest.mark.parametrize("difference", [5e-324, 1e-323, 1e-310])
def test_losses_that_differ_by_less_than_floats_divide_by_count_as_equal(
    difference: float,
) -> None:
    losses = np.array([0.0, difference])
    assert (warp_of(losses)(torch.from_numpy(losses)[None]) == 0.0).all()


def test_expected_gain_is_the_mean_of_the_improvements() -> None:
    points, losses = bowl(30)
    ran = points[:, 0] < 0.5
    surrogate = surrogate_of(points, losses, ran)
    query = np.array([[0.3, 0.6], [0.45, 0.6], [0.55, 0.6]])
    mean, sd, p_runs = predict(surrogate, query)
    draws = mean + sd * np.random.default_rng(2).standard_normal((200_000, 3))
    assert p_runs[2] < 0.8 < p_runs[0]
    drawn = warp_of(losses[ran]).inverse(torch.from_numpy(draws)).numpy()
    improvement = np.maximum(losses[ran].min() - drawn, 0.0).mean(axis=0)
    np.testing.assert_allclose(gain(surrogate, query), p_runs * improvement, rtol=0.1, atol=1e-6)


def test_the_acquisition_is_expected_improvement_discounted_by_crashes() -> None:
    points, losses = bowl(30)
    surrogate = surrogate_of(points, losses, points[:, 0] < 0.5)
    query = np.random.default_rng(1).random((6, 2))
    mean, sd, p_runs = predict(surrogate, query)
    z = np.linspace(-12.0, 12.0, 400_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    # An edit counts as better when it beats the best by .1; the sd is taken 1.2 times as wide.
    gains = np.maximum(float(surrogate.best) - 0.1 - mean - 1.2 * sd * z[:, None], 0.0)
    improvement = np.trapezoid(gains * density[:, None], z, axis=0)
    expected = np.log(improvement) + 2.5 * np.log(p_runs)
    likely = improvement > 1e-12
    assert likely.sum() >= 3
    np.testing.assert_allclose(acquisition(surrogate, query)[likely], expected[likely], atol=1e-3)


def test_nothing_is_known_of_gains_before_two_losses_differ() -> None:
    query = np.random.default_rng(1).random((5, 2))
    for losses in ([], [1.0], [1.0, 1.0]):
        points = np.random.default_rng(0).random((len(losses), 2))
        assert np.isnan(gain(surrogate_of(points, np.array(losses)), query)).all()


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("crashes", ["none", "all"])
def test_few_or_failed_trials_give_finite_answers(n: int, crashes: str) -> None:
    points, losses = bowl(n)
    surrogate = surrogate_of(points, losses, np.full(n, crashes == "none"))
    query = np.random.default_rng(1).random((7, 2))
    assert all(np.isfinite(part).all() for part in predict(surrogate, query))
    assert np.isfinite(acquisition(surrogate, query)).all()


def test_repeats_of_a_point_are_averaged() -> None:
    points = np.repeat([[0.2, 0.2], [0.8, 0.8]], 20, axis=0)
    losses = np.concatenate([np.linspace(0.9, 1.1, 20), np.linspace(1.9, 2.1, 20)])
    surrogate = surrogate_of(points, losses)
    mean, sd, _ = predict(surrogate, points[[0, -1]])
    groups = surrogate.warped.reshape(2, 20).mean(1)
    np.testing.assert_allclose(mean, groups, atol=0.1)
    assert (sd < 0.3).all()


def test_choices_alone_can_be_learned() -> None:
    space = Space({"a": CategoricalDistribution(["p", "q", "r"])})
    points = np.array([[1 / 6], [1 / 2], [5 / 6]] * 3)
    surrogate = surrogate_of(points, np.tile([2.0, 1.0, 3.0], 3), space=space)
    assert predict(surrogate, points[:3])[0].argsort().tolist() == [1, 0, 2]


def test_a_space_without_slots_has_a_surrogate() -> None:
    space = Space({})
    surrogate = surrogate_of(np.empty((3, 0)), np.arange(3.0), space=space)
    assert np.isfinite(acquisition(surrogate, np.empty((1, 0)))).all()


def test_long_histories_keep_their_best_and_their_latest_trials() -> None:
    points, losses = bowl(700)
    losses[:30] -= 10.0
    surrogate = surrogate_of(points, losses)
    kept = set(surrogate.trials[0].tolist())
    assert len(kept) == 256
    assert set(range(30)) <= kept and set(range(560, 700)) <= kept


def test_doubt_says_by_how_much_a_mean_moves_with_the_prior_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = random_history(SQUARE, 12, seed=3)
    theta = fit(history)
    query = torch.cat([history.points[:, :3], torch.rand(1, 20, history.points.shape[2])], 1)
    before = Surrogate(history, theta).predict(query)
    monkeypatch.setattr(module, "_PESSIMISM", module._PESSIMISM + 0.5)
    after = Surrogate(history, theta).predict(query)
    torch.testing.assert_close(after.mean - before.mean, 0.5 * before.doubt, rtol=1e-3, atol=1e-4)


def test_paths_are_draws_from_the_posterior() -> None:
    """Their mean and sd at points are the prediction's, and each is a continuous function."""
    history = random_history(SQUARE, 10, seed=4, failures=0.2)
    count = 4000
    many = history[torch.zeros(count, dtype=torch.int64)]
    theta = Hyperparameters(*(part.expand(count, *part.shape[1:]) for part in fit(history)))
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=random, dtype=history.points.dtype)

    waves = normal(64, 2) / normal(64, 5).square().mean(2, keepdim=True).sqrt()
    phases = 2.0 * math.pi * torch.rand(count, 64, generator=random)
    query = torch.rand(1, 6, 2, generator=random).to(history.points)
    query[:, 0] = history.at(history.ranking[:, :1])[:, 0]  # a trial that ran
    query[:, 2] = query[:, 1] + 1e-4
    path = Surrogate(many, theta).path(waves, phases, normal(10))
    drawn = path(query.expand(count, -1, -1))
    expected = Surrogate(history, fit(history)).predict(query)
    torch.testing.assert_close(drawn.mean(0), expected.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), expected.sd[0], atol=0.04, rtol=0.05)
    assert (drawn[:, 2] - drawn[:, 1]).abs().max() < 0.05


@pytest.mark.parametrize("u", [-60.0, -3.0, 0.0, 2.0, 60.0])
def test_log_improvement_has_the_right_gradient(u: float) -> None:
    at = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    log_improvement(at).backward()
    step = 1e-4 * max(abs(u), 1.0)
    ends = [log_improvement(torch.tensor(u + s * step, dtype=torch.float64)) for s in (1, -1)]
    assert at.grad is not None
    assert float(at.grad) == pytest.approx(float((ends[0] - ends[1]) / (2 * step)), rel=1e-3)


def test_log_improvement_agrees_with_the_integral_and_with_its_tail() -> None:
    u = np.array([-4.0, -1.0, 0.0, 0.5, 3.0])
    z = np.linspace(-12.0, 12.0, 400_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    integral = [np.trapezoid(np.maximum(x - z, 0.0) * density, z) for x in u]
    np.testing.assert_allclose(log_improvement(torch.from_numpy(u)), np.log(integral), atol=1e-6)
    far = np.array([-60.0, -500.0])
    tail = -(far**2) / 2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(-far)  # φ(u) / u²
    np.testing.assert_allclose(log_improvement(torch.from_numpy(far)), tail, atol=2e-3)
