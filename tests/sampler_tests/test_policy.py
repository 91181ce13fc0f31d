"""The network: starts as the acquisition, treats candidates as a set, fits any space."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from histories import generator
from histories import random_history
import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import pytest
from safetensors.torch import load_file
from safetensors.torch import save_file
import torch

from optuna_arrl.sampler.cube import Cube
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import FEATURES
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.policy import SLOT_FEATURES
from optuna_arrl.sampler.policy import TRIAL_FEATURES
from optuna_arrl.sampler.proposers import propose
from optuna_arrl.sampler.space import Space
from optuna_arrl.sampler.surrogate import log_acquisition
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


def history(n: int, failures: float = 0.3, space: Space = SPACE) -> History:
    return random_history(space, n, seed=n, failures=failures)


def state_of(past: History, count: int = 32) -> PolicyInput:
    return policy_input(past, propose(past, generator(0), count), Surrogate(past))


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
    state = state_of(history(n, failures))
    assert state.features.shape == (1, 32, len(FEATURES))
    assert state.slots.shape == (1, 5, len(SLOT_FEATURES))
    assert state.trials.shape == (1, min(n, 40), len(TRIAL_FEATURES))
    for tokens in (state.features, state.slots, state.trials, state.moves):
        assert tokens.isfinite().all() and (tokens.abs() <= 5.0).all()
    assert state.forecast.isfinite().all() and state.aim.isfinite().all()
    assert state.doubt.shape == (1, 32)
    assert state.doubt.isfinite().all() and (state.doubt.abs() <= 2.0).all()


@pytest.mark.parametrize("distributions", [{}, {"x": IntDistribution(3, 3)}])
def test_a_space_of_one_point_has_a_policy(distributions: dict[str, IntDistribution]) -> None:
    for n in (0, 3):
        state = state_of(history(n, 0.0, Space(distributions)))
        probabilities = action_distribution(PolicyNetwork()(state).logits, state.mask).exp()
        assert probabilities[state.mask].tolist() == [1.0]


def test_an_unlearned_policy_is_the_scaled_acquisition() -> None:
    past = history(20)
    candidates, surrogate = propose(past, generator(0), 32), Surrogate(past)
    output = PolicyNetwork(scale=3.0)(policy_input(past, candidates, surrogate))
    edits = (candidates.parents >= 0) & candidates.legal
    acquisition = surrogate.log_acquisition(surrogate.predict(candidates.points))[edits]
    expected = 3.0 * (acquisition - acquisition.max()).clamp(min=-15.0)
    torch.testing.assert_close(output.logits[edits], expected.float(), rtol=1e-4, atol=1e-4)
    assert output.value == 0.0


@pytest.mark.parametrize("n", [1, 20])
def test_draws_from_the_whole_space_have_but_the_floor_once_a_trial_ran(n: int) -> None:
    past = history(n, failures=0.0)
    candidates = propose(past, generator(0), 64)
    state = policy_input(past, candidates, Surrogate(past))
    log_probs = action_distribution(stirred(PolicyNetwork())(state).logits, state.mask)
    anywhere, legal = candidates.parents < 0, int(candidates.legal.sum())
    assert anywhere.sum() == 4 and candidates.legal[anywhere].all()
    torch.testing.assert_close(log_probs[anywhere].exp(), torch.full((4,), 0.02 / legal))
    edits = candidates.legal & ~anywhere
    assert log_probs[edits].exp().sum().item() == pytest.approx(1 - 4 * 0.02 / legal)


@pytest.mark.parametrize("n", [0, 5])
def test_while_nothing_ran_the_policy_chooses_among_draws_from_the_whole_space(n: int) -> None:
    assert not state_of(history(n, failures=1.0)).floor_only.any()


def test_an_unlearned_forecast_is_the_surrogate_s() -> None:
    past = history(20)
    candidates, surrogate = propose(past, generator(0), 32), Surrogate(past)
    output = PolicyNetwork()(policy_input(past, candidates, surrogate))
    mean, sd, p_runs = surrogate.predict(candidates.points)[:3]
    noise = math.exp(surrogate.log_noise)
    np.testing.assert_allclose(output.score_mean.detach(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.score_log_sd.exp().detach() ** 2, sd**2 + noise, rtol=1e-4)
    np.testing.assert_allclose(1 - output.crash_logit.sigmoid().detach(), p_runs, atol=2e-4)


def test_the_order_of_candidates_makes_no_difference() -> None:
    network, state = stirred(PolicyNetwork()), state_of(history(20))
    order = torch.randperm(32, generator=generator(0))
    mixed = PolicyInput(
        **{
            name: part[:, order] if part.shape[1] == 32 else part
            for name, part in vars(state).items()
        }
    )
    output, shuffled = network(state), network(mixed)
    torch.testing.assert_close(shuffled.logits, output.logits[:, order])
    torch.testing.assert_close(shuffled.value, output.value)
    torch.testing.assert_close(shuffled.crash_logit, output.crash_logit[:, order])


def test_padding_makes_no_difference() -> None:
    network = stirred(PolicyNetwork())
    narrow = Space({"rate": SPACE.distributions["rate"], "share": SPACE.distributions["share"]})
    small, large = state_of(history(3, space=narrow), 5), state_of(history(20), 32)
    both = PolicyInput.cat([small, large])
    batch, alone = network(both), network(small)
    torch.testing.assert_close(batch.logits[:1, :5], alone.logits)
    torch.testing.assert_close(batch.value[:1], alone.value)
    log_probs = action_distribution(batch.logits, both.mask)
    torch.testing.assert_close(
        log_probs[:1, :5], action_distribution(alone.logits, small.mask), rtol=1e-5, atol=1e-5
    )
    assert log_probs[0, 5:].tolist() == [-math.inf] * 27


def test_order_of_slots_makes_no_difference() -> None:
    """The same study, its slots in another order: the same scores, value and forecast."""
    permutation = [4, 2, 0, 3, 1]
    past = history(20)
    cube = past.cube
    slots = ("levels", "categorical", "logarithmic", "integer", "low", "start", "end", "family")
    twin_cube = Cube.of(**{name: getattr(cube, name)[:, permutation] for name in slots})
    twin = History(twin_cube, past.points[..., permutation], past.losses, past.ran, past.parents)
    offered = propose(past, generator(0), 32)
    same = dataclasses.replace(offered, points=offered.points[..., permutation])
    network = stirred(PolicyNetwork())
    state = policy_input(past, offered, Surrogate(past))
    other = policy_input(twin, same, Surrogate(twin))
    torch.testing.assert_close(other.slots, state.slots[:, permutation], rtol=1e-3, atol=1e-3)
    rank = FEATURES.index("acquisition_rank")  # the last bit may swap two equal candidates
    state.features[..., rank] = other.features[..., rank] = 0.0
    for mine, theirs in zip(network(state), network(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_a_slot_s_opinion_moves_the_score_along_its_direction() -> None:
    network, state = PolicyNetwork(), state_of(history(20))
    with torch.no_grad():
        network.slot_effects.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))  # upwards, every number
    numeric = state.slots[..., SLOT_FEATURES.index("numeric")]
    expected = PolicyNetwork()(state).logits + 2.0 * (state.moves * numeric[:, None]).sum(2)
    edits = ~state.floor_only
    torch.testing.assert_close(network(state).logits[edits], expected[edits])


def test_exploration_changes_the_constants_of_the_acquisition() -> None:
    past = history(20)
    candidates, surrogate = propose(past, generator(0), 32), Surrogate(past)
    state = policy_input(past, candidates, surrogate)
    network = PolicyNetwork(scale=1.0)
    with torch.no_grad():
        network.exploration.weight[:, 0] = torch.tensor([-1.0, 0.5, 2.0, 1.0])
    # 3 tanh(w/3) of each: the logarithms of ξ, width and scale in units of .8, .25 and .7, and
    # .3 sd of pessimism.
    xi, wider, scale, worse = (
        unit * 3.0 * math.tanh(w / 3.0)
        for unit, w in ((0.8, -1.0), (0.25, 0.5), (0.7, 2.0), (0.3, 1.0))
    )
    mean, sd, p_runs, _, doubt = surrogate.predict(candidates.points)
    edits = ~state.floor_only & state.mask
    expected = log_acquisition(
        surrogate.best, mean + worse * doubt, sd, p_runs, math.exp(xi), math.exp(wider)
    )[edits]
    expected = math.exp(scale) * (expected - expected.max()).clamp(min=-15.0)
    torch.testing.assert_close(
        network(state).logits[edits], expected.float(), rtol=1e-3, atol=1e-3
    )


def test_exploration_depends_on_how_the_study_goes() -> None:
    network = PolicyNetwork()
    with torch.no_grad():
        network.exploration.weight[0, 1] = 1.0  # ξ, by the number of trials
        factors = [float(network.exploration(state_of(history(n)))[0]) for n in (3, 30, 300)]
    # log(1 + n) / 3 less 1, times 2, times .8, within ± 2.4
    for n, factor in zip((3, 30, 300), factors, strict=True):
        by_hand = 2.4 * math.tanh((math.log1p(n) / 3.0 - 1.0) * 2.0 / 3.0)
        assert math.log(factor) == pytest.approx(by_hand, abs=1e-3)


def test_the_scores_have_a_gradient_by_every_weight_of_exploration() -> None:
    network, state = PolicyNetwork(), state_of(history(20))
    network(state).logits[~state.floor_only].square().sum().backward()
    gradient = network.exploration.weight.grad
    assert gradient is not None and gradient.isfinite().all() and (gradient != 0.0).all()


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
    network, state = stirred(PolicyNetwork()), state_of(history(20))
    save_file(network.state_dict(), tmp_path / "policy.safetensors")
    loaded = PolicyNetwork(seed=9)
    loaded.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    assert torch.equal(loaded(state).logits, network(state).logits)


def test_the_mixture_by_hand() -> None:
    logits = torch.tensor([math.log(3.0) / 2, 0.0, 99.0])
    mask = torch.tensor([True, True, False])
    log_probs = action_distribution(logits, mask, floor=0.2, sharpness=2.0)
    # softmax (3/4, 1/4), uniform (1/2, 1/2): .8 × .75 + .2 × .5 = .7 and .8 × .25 + .1 = .3
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.7, 0.3, 0.0]))
    no_floor = action_distribution(logits, mask, floor=0.0, sharpness=2.0)
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
