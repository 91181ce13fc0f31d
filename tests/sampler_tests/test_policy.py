"""The network: starts as the acquisition, treats candidates as a set, fits any space."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import pytest
from safetensors.torch import load_file
from safetensors.torch import save_file
import torch

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import candidate_features
from optuna_arrl.sampler.policy import FEATURES
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.proposers import propose
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.surrogate import Surrogate


torch.set_num_threads(1)

SPACE = Space(
    {
        "choice": CategoricalDistribution(["a", "b", "c"]),
        "fixed": IntDistribution(7, 7),
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
        "share": FloatDistribution(-1.0, 1.0),
        "size": IntDistribution(1, 512, log=True),
    }
)


def history_of(n: int, failures: float = 0.3, space: Space = SPACE) -> History:
    rng = np.random.default_rng(n)
    ran = rng.random(n) >= failures
    points = space.snap(rng.random((n, space.dim)))
    losses = np.where(ran, rng.standard_normal(n), np.inf)
    return History(space, np.arange(n), points, losses, ran, np.arange(n) - 1, np.full(n, -1))


def state_of(history: History, count: int = 32) -> PolicyInput:
    candidates = propose(history, np.random.default_rng(0), count)
    return candidate_features(history, candidates, Surrogate.fit(history))


def stirred(network: PolicyNetwork) -> PolicyNetwork:
    """The network with every weight away from zero, as after learning."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return network


@pytest.mark.parametrize("n", [0, 1, 2, 7, 40, 300])
@pytest.mark.parametrize("failures", [0.0, 0.3, 1.0])
def test_features_are_finite_and_of_order_one(n: int, failures: float) -> None:
    state = state_of(history_of(n, failures))
    assert state.features.shape == (32, len(FEATURES)) and state.mask.all()
    assert state.features.isfinite().all() and state.features.abs().max() <= 5.0
    assert state.acquisition.max() == 0.0 and state.acquisition.min() >= -15.0
    assert state.forecast.isfinite().all()


@pytest.mark.parametrize("distributions", [{}, {"x": IntDistribution(3, 3)}])
def test_a_space_of_one_point_has_a_policy(distributions: dict[str, IntDistribution]) -> None:
    for n in (0, 3):
        state = state_of(history_of(n, 0.0, Space(distributions)))
        output = PolicyNetwork()(state)
        assert action_distribution(output.logits, state.mask).exp().tolist() == [1.0]


def test_an_unlearned_policy_is_the_scaled_acquisition() -> None:
    history = history_of(20)
    candidates = propose(history, np.random.default_rng(0), 32)
    surrogate = Surrogate.fit(history)
    state = candidate_features(history, candidates, surrogate)
    output = PolicyNetwork(scale=3.0)(state)
    edits = candidates.parents >= 0
    acquisition = torch.from_numpy(surrogate.log_acquisition(candidates.points))[edits]
    expected = 3.0 * (acquisition - acquisition.max()).clamp(min=-15.0)
    torch.testing.assert_close(output.logits[edits], expected.float(), rtol=1e-4, atol=1e-4)
    assert output.value == 0.0


@pytest.mark.parametrize("n", [1, 20])
def test_draws_from_the_whole_space_have_but_the_floor_once_a_trial_ran(n: int) -> None:
    history = history_of(n, failures=0.0)
    candidates = propose(history, np.random.default_rng(0), 32)
    state = candidate_features(history, candidates, Surrogate.fit(history))
    log_probs = action_distribution(stirred(PolicyNetwork())(state).logits, state.mask)
    anywhere = torch.from_numpy(candidates.parents < 0)
    count = int(anywhere.sum())
    assert 2 <= count < 8
    torch.testing.assert_close(log_probs[anywhere].exp(), torch.full((count,), 0.02 / 32))
    assert log_probs[~anywhere].exp().sum().item() == pytest.approx(1 - count * 0.02 / 32)


@pytest.mark.parametrize("n", [0, 5])
def test_while_nothing_ran_the_policy_chooses_among_draws_from_the_whole_space(n: int) -> None:
    assert not state_of(history_of(n, failures=1.0)).floor_only.any()


def test_an_unlearned_forecast_is_the_surrogate_s() -> None:
    history = history_of(20)
    candidates = propose(history, np.random.default_rng(0), 32)
    surrogate = Surrogate.fit(history)
    output = PolicyNetwork()(candidate_features(history, candidates, surrogate))
    mean, sd, p_runs = surrogate.predict(candidates.points)
    noise = math.exp(surrogate.log_noise)
    np.testing.assert_allclose(output.score_mean.detach(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.score_log_sd.exp().detach() ** 2, sd**2 + noise, rtol=1e-4)
    np.testing.assert_allclose(1 - output.crash_logit.sigmoid().detach(), p_runs, atol=2e-4)


def test_the_order_of_candidates_makes_no_difference() -> None:
    network, state = stirred(PolicyNetwork()), state_of(history_of(20))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    output, shuffled = network(state), network(state[order])
    torch.testing.assert_close(shuffled.logits, output.logits[order])
    torch.testing.assert_close(shuffled.value, output.value)
    torch.testing.assert_close(shuffled.crash_logit, output.crash_logit[order])


def test_padding_makes_no_difference() -> None:
    network = stirred(PolicyNetwork())
    small, large = state_of(history_of(20), 5), state_of(history_of(9), 32)
    batch = network(PolicyInput.stack([small, large]))
    alone = network(small)
    torch.testing.assert_close(batch.logits[0, :5], alone.logits)
    torch.testing.assert_close(batch.value[0], alone.value)
    stacked = PolicyInput.stack([small, large])
    log_probs = action_distribution(batch.logits, stacked.mask)
    torch.testing.assert_close(
        log_probs[0, :5], action_distribution(alone.logits, small.mask), rtol=1e-5, atol=1e-5
    )
    assert log_probs[0, 5:].tolist() == [-math.inf] * 27


def test_names_and_order_of_slots_make_no_difference() -> None:
    renamed = dict(zip("vwxyz", SPACE.names, strict=True))
    permutation = [4, 2, 0, 3, 1]
    names = sorted(renamed)
    other = Space(
        {names[i]: SPACE.distributions[SPACE.names[j]] for i, j in enumerate(permutation)}
    )
    history = history_of(20)
    twin = History(
        other,
        history.numbers,
        history.points[:, permutation],
        history.losses,
        history.ran,
        history.parents,
        history.kinds,
    )
    candidates = propose(history, np.random.default_rng(0), 32)
    same = Candidates(
        candidates.points[:, permutation],
        candidates.parents,
        candidates.kinds,
        candidates.step,
        candidates.changed,
    )
    features = candidate_features(history, candidates, Surrogate.fit(history)).features
    permuted = candidate_features(twin, same, Surrogate.fit(twin)).features
    rank = FEATURES.index("acquisition_rank")  # the last bit may swap two equal candidates
    keep = [i for i in range(len(FEATURES)) if i != rank]
    torch.testing.assert_close(features[:, keep], permuted[:, keep], rtol=1e-3, atol=1e-3)


def test_weights_are_few_repeatable_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = PolicyNetwork(seed=1), PolicyNetwork(seed=1), PolicyNetwork(seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert sum(weight.numel() for weight in one.parameters()) < 50_000
    assert torch.equal(one.embed.weight, same.embed.weight)
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_weights_survive_a_file(tmp_path: Path) -> None:
    network, state = stirred(PolicyNetwork()), state_of(history_of(20))
    save_file(network.state_dict(), tmp_path / "policy.safetensors")
    loaded = PolicyNetwork(seed=9)
    loaded.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    assert torch.equal(loaded(state).logits, network(state).logits)


def test_the_mixture_by_hand() -> None:
    logits = torch.tensor([math.log(3.0), 0.0, 99.0])
    mask = torch.tensor([True, True, False])
    log_probs = action_distribution(logits, mask, floor=0.2)
    # softmax (3/4, 1/4), uniform (1/2, 1/2): .8 × .75 + .2 × .5 = .7 and .8 × .25 + .1 = .3
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.7, 0.3, 0.0]))
    no_floor = action_distribution(logits, mask, floor=0.0)
    torch.testing.assert_close(no_floor.exp(), torch.tensor([0.75, 0.25, 0.0]))


def test_no_legal_candidate_falls_below_its_share_of_the_floor() -> None:
    logits = torch.tensor([[50.0, -50.0, 0.0, -1e9]]).repeat(2, 1).requires_grad_(True)
    mask = torch.tensor([[True, True, True, True], [False, True, False, True]])
    log_probs = action_distribution(logits, mask, floor=0.02)
    assert (log_probs.exp()[mask] >= torch.tensor([0.005] * 4 + [0.01] * 2) - 1e-8).all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2))
    log_probs[mask].sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0.0).all()
