"""PPO: the equations by hand, and learning where there is something to learn."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st
import pytest
import torch
from torch import Tensor

from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import FEATURES
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.policy import PolicyOutput
from optuna_arrl.sampler.policy import SLOT_FEATURES
from optuna_arrl.sampler.policy import TRIAL_FEATURES
from optuna_arrl.sampler.ppo import Batch
from optuna_arrl.sampler.ppo import generalized_advantage
from optuna_arrl.sampler.ppo import ppo_loss
from optuna_arrl.sampler.ppo import ppo_update
from optuna_arrl.sampler.ppo import PPOConfig


torch.set_num_threads(1)

PLAIN = PPOConfig(
    value_coefficient=0.0,
    entropy_coefficient=0.0,
    kl_coefficient=0.0,
    forecast_coefficient=0.0,
    exploration_floor=0.0,
    sharpness=1.0,
)
PLAIN_WITH_FLOOR = dataclasses.replace(PLAIN, exploration_floor=0.02)
NAN = math.nan


def states(n: int, count: int, seed: int = 0) -> PolicyInput:
    """Random states in which the acquisition prefers nothing."""
    generator = torch.Generator().manual_seed(seed)
    return PolicyInput(
        features=torch.randn(n, count, len(FEATURES), generator=generator),
        forecast=torch.zeros(n, count, 3),
        aim=torch.zeros(n, 2),
        doubt=torch.ones(n, count),
        moves=torch.zeros(n, count, 2),
        distances=torch.ones(n, count, 3),
        mask=torch.ones(n, count, dtype=torch.bool),
        floor_only=torch.zeros(n, count, dtype=torch.bool),
        slots=torch.zeros(n, 2, len(SLOT_FEATURES)),
        slot_mask=torch.ones(n, 2, dtype=torch.bool),
        trials=torch.zeros(n, 3, len(TRIAL_FEATURES)),
        trial_mask=torch.ones(n, 3, dtype=torch.bool),
    )


def act(network: PolicyNetwork, inputs: PolicyInput, seed: int) -> tuple[Tensor, Tensor]:
    """Draw an action in every state; return it and all log-probabilities."""
    with torch.no_grad():
        log_probs = action_distribution(network(inputs).logits, inputs.mask)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0], log_probs


def batch_of(inputs: PolicyInput, action: Tensor, log_probs: Tensor, **figures: Tensor) -> Batch:
    nothing = torch.zeros(len(action))
    return Batch(
        **{
            "inputs": inputs,
            "action": action,
            "log_prob": log_probs.gather(-1, action[:, None])[:, 0],
            "advantage": nothing,
            "return_": nothing,
            "reference": log_probs,
            "score": nothing * NAN,
            "ran": nothing * NAN,
            **figures,
        }
    )


def two_candidates(p: float, old_p: float, advantage: float) -> tuple[PolicyOutput, Batch]:
    """One state, two candidates; the first, now of probability p, was drawn with old_p."""
    logits = torch.tensor([[math.log(p / (1 - p)), 0.0]], requires_grad=True)
    zeros = torch.zeros(1, 2)
    output = PolicyOutput(logits, torch.tensor([0.5]), zeros, zeros, zeros)
    batch = batch_of(
        states(1, 2),
        torch.tensor([0]),
        torch.tensor([[math.log(old_p), math.log(1 - old_p)]]),
        advantage=torch.tensor([advantage]),
        return_=torch.tensor([2.0]),
    )
    return output, batch


@pytest.mark.parametrize(
    ("p", "advantage", "loss", "active"),
    [
        (0.55, 1.0, -1.1, False),  # ratio 1.1, inside
        (0.75, 1.0, -1.2, True),  # ratio 1.5, gains no more than 1.2
        (0.25, 1.0, -0.5, False),  # ratio .5, but moving back is not clipped
        (0.25, -1.0, 0.8, True),  # ratio .5, gains no more than .8
        (0.75, -1.0, 1.5, False),  # ratio 1.5 for a bad action: the whole of it counts
    ],
)
def test_the_clipped_surrogate_by_hand(
    p: float, advantage: float, loss: float, active: bool
) -> None:
    output, batch = two_candidates(p, 0.5, advantage)
    value, parts = ppo_loss(output, batch, PLAIN)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    value.backward()
    gradient = output.logits.grad
    assert gradient is not None
    # d ratio / d logit = ratio (1 - p), unless the clip holds the ratio.
    expected = 0.0 if active else -advantage * (p / 0.5) * (1 - p)
    assert gradient[0, 0].item() == pytest.approx(expected, abs=1e-6)
    assert parts["clip_fraction"].item() == float(abs(p / 0.5 - 1) > 0.2)
    ratio = p / 0.5
    assert parts["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_the_other_terms_by_hand() -> None:
    output, batch = two_candidates(0.8, 0.8, 0.0)
    batch = dataclasses.replace(batch, reference=torch.tensor([[0.5, 0.5]]).log())
    config = dataclasses.replace(
        PLAIN, value_coefficient=0.5, entropy_coefficient=0.01, kl_coefficient=0.1
    )
    loss, parts = ppo_loss(output, batch, config)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    reference_kl = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert parts["value_loss"].item() == pytest.approx((0.5 - 2.0) ** 2)
    assert parts["entropy"].item() == pytest.approx(entropy, abs=1e-6)
    assert parts["reference_kl"].item() == pytest.approx(reference_kl, abs=1e-6)
    expected = 0.5 * 2.25 - 0.01 * entropy + 0.1 * reference_kl
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("score", "ran", "loss"),
    [
        (NAN, NAN, 0.0),
        (1.5, 1.0, 0.5 + math.log(0.5 * math.sqrt(2 * math.pi)) + math.log(1 + math.e)),
        (NAN, 0.0, math.log(1 + math.exp(-1.0))),
    ],
)
def test_the_forecast_is_trained_by_its_likelihood(score: float, ran: float, loss: float) -> None:
    # Forecast of the drawn candidate: N(1, .5²), log-odds of a crash 1.
    output, batch = two_candidates(0.5, 0.5, 0.0)
    mean, log_sd = torch.tensor([[1.0, 9.0]]), torch.tensor([[math.log(0.5), 9.0]])
    output = output._replace(
        score_mean=mean, score_log_sd=log_sd, crash_logit=torch.tensor([[1.0, 9.0]])
    )
    batch = dataclasses.replace(batch, score=torch.tensor([score]), ran=torch.tensor([ran]))
    _, parts = ppo_loss(output, batch, PLAIN)
    assert parts["forecast_loss"].item() == pytest.approx(loss, abs=1e-6)


def test_the_ratio_is_one_on_the_policy_s_own_fresh_data() -> None:
    network, inputs = PolicyNetwork(), states(16, 8)
    inputs.mask[:, 5:] = False
    action, log_probs = act(network, inputs, seed=0)
    batch = batch_of(inputs, action, log_probs, advantage=torch.randn(16))
    loss, parts = ppo_loss(network(inputs), batch, dataclasses.replace(PPOConfig(), epochs=1))
    assert parts["approx_kl"].item() == parts["clip_fraction"].item() == 0.0
    assert parts["reference_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert parts["policy_loss"].item() == pytest.approx(-batch.advantage.mean().item(), abs=1e-6)
    loss.backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in network.parameters())


def test_an_edit_that_only_the_floor_draws_teaches_the_policy_nothing() -> None:
    network, inputs = PolicyNetwork(), states(4, 8)
    inputs.floor_only[:, 7] = True
    _, log_probs = act(network, inputs, seed=0)
    torch.testing.assert_close(log_probs[:, 7].exp(), torch.full((4,), 0.02 / 8))
    action = torch.full((4,), 7)
    batch = batch_of(inputs, action, log_probs, advantage=torch.ones(4))
    loss, _ = ppo_loss(network(inputs), batch, PLAIN_WITH_FLOOR)
    loss.backward()
    assert all(w.grad is None or (w.grad == 0.0).all() for w in network.parameters())


short = st.floats(-10.0, 10.0)


@given(
    steps=st.lists(st.tuples(short, short), min_size=1, max_size=12),
    last=short,
    discount=st.floats(0.0, 1.0),
    gae_lambda=st.floats(0.0, 1.0),
)
def test_advantages_are_the_discounted_sums_of_their_definition(
    steps: list[tuple[float, float]], last: float, discount: float, gae_lambda: float
) -> None:
    rewards, values = torch.tensor(steps, dtype=torch.float64).T
    advantages, returns = generalized_advantage(rewards, values, last, discount, gae_lambda)
    following = [*values.tolist()[1:], last]
    deltas = [r + discount * v - u for (r, u), v in zip(steps, following, strict=True)]
    for t in range(len(steps)):
        expected = sum((discount * gae_lambda) ** k * d for k, d in enumerate(deltas[t:]))
        assert advantages[t].item() == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(returns, advantages + values)


def test_with_lambda_one_returns_are_discounted_rewards() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]])
    values = torch.tensor([[5.0, 6.0, 7.0], [1.0, 1.0, 1.0]])
    _, returns = generalized_advantage(rewards, values, torch.tensor([8.0, 0.0]), 0.5, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[4.0, 6.0, 8.0], [0.25, 0.5, 1.0]]))


def test_ppo_learns_which_feature_of_a_candidate_pays() -> None:
    network = PolicyNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    first, last = 0.0, 0.0
    for step in range(40):
        inputs = states(64, 16, seed=step)
        action, log_probs = act(network, inputs, seed=step)
        reward = inputs.features[torch.arange(64), action, 3]  # the mean over candidates is 0
        batch = batch_of(inputs, action, log_probs, advantage=reward, return_=reward)
        ppo_update(network, optimizer, batch, PPOConfig(kl_coefficient=0.0), generator)
        first, last = first or reward.mean().item(), reward.mean().item()
    assert first < 0.4 and last > 0.9


def test_values_learn_the_returns_and_explain_their_variance() -> None:
    network, inputs = PolicyNetwork(), states(64, 8)
    returns = inputs.features[..., 0].mean(-1) * 3.0
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    action, log_probs = act(network, inputs, seed=0)
    batch = batch_of(inputs, action, log_probs, return_=returns)
    history = [ppo_update(network, optimizer, batch, PPOConfig(), generator) for _ in range(40)]
    assert history[0].explained_variance == pytest.approx(0.0, abs=1e-6)
    assert history[-1].explained_variance > 0.9
    assert history[-1].value_loss < 0.1 * history[0].value_loss


def test_forecasts_learn_which_candidates_crash() -> None:
    network, inputs = PolicyNetwork(), states(128, 4)
    action = torch.zeros(128, dtype=torch.int64)
    ran = (inputs.features[:, 0, 7] > 0.0).float()
    _, log_probs = act(network, inputs, seed=0)
    batch = batch_of(inputs, action, log_probs, ran=ran, score=torch.where(ran > 0, 0.7, NAN))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    config = PPOConfig(forecast_coefficient=1.0)
    for step in range(40):
        ppo_update(network, optimizer, batch, config, torch.Generator().manual_seed(step))
    output = network(inputs)
    right = (output.crash_logit[:, 0] < 0.0) == (ran > 0.0)
    assert right.float().mean() > 0.95
    assert output.score_mean[ran > 0, 0].mean().item() == pytest.approx(0.7, abs=0.15)


def test_an_update_ends_once_it_has_moved_far_enough() -> None:
    inputs = states(32, 8)
    network = PolicyNetwork()
    action, log_probs = act(network, inputs, seed=0)
    batch = batch_of(inputs, action, log_probs, advantage=inputs.features[:, 0, 0])
    config = PPOConfig(epochs=30, minibatch_size=8, target_kl=0.01)
    statistics = ppo_update(
        network,
        torch.optim.Adam(network.parameters(), lr=1e-2),
        batch,
        config,
        torch.Generator().manual_seed(0),
    )
    assert statistics.epochs < 30 and statistics.approx_kl > 0.01


def test_the_shipped_policy_holds_the_learned_one_back() -> None:
    distances = []
    for kl_coefficient in (0.0, 10.0):
        network, inputs = PolicyNetwork(), states(64, 8)
        action, log_probs = act(network, inputs, seed=0)
        reward = inputs.features[torch.arange(64), action, 3]
        batch = batch_of(inputs, action, log_probs, advantage=reward, return_=reward)
        config = PPOConfig(kl_coefficient=kl_coefficient, target_kl=math.inf, epochs=60)
        statistics = ppo_update(
            network,
            torch.optim.Adam(network.parameters(), lr=3e-3),
            batch,
            config,
            torch.Generator().manual_seed(0),
        )
        distances.append(statistics.reference_kl)
    assert 0.0 <= distances[1] < 0.2 * distances[0]


def test_the_same_batch_and_seed_make_the_same_weights() -> None:
    weights = []
    for _ in range(2):
        network, inputs = PolicyNetwork(), states(20, 8)
        action, log_probs = act(network, inputs, seed=0)
        batch = batch_of(inputs, action, log_probs, advantage=inputs.features[:, 0, 0])
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        config = PPOConfig(minibatch_size=7)
        ppo_update(network, optimizer, batch, config, torch.Generator().manual_seed(3))
        weights.append(torch.cat([w.detach().flatten() for w in network.parameters()]))
    assert torch.equal(*weights)


def test_figures_that_are_not_finite_are_refused() -> None:
    network, inputs = PolicyNetwork(), states(4, 3)
    action, log_probs = act(network, inputs, seed=0)
    batch = batch_of(inputs, action, log_probs, return_=torch.full((4,), math.inf))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    with pytest.raises(FloatingPointError):
        ppo_update(network, optimizer, batch, PPOConfig(), torch.Generator())


def test_a_single_step_can_be_learned_from() -> None:
    network, inputs = PolicyNetwork(), states(1, 3)
    action, log_probs = act(network, inputs, seed=0)
    batch = batch_of(inputs, action, log_probs, advantage=torch.ones(1), return_=torch.ones(1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    statistics = ppo_update(network, optimizer, batch, PPOConfig(), torch.Generator())
    assert statistics.explained_variance == 0.0
    after = action_distribution(network(inputs).logits, inputs.mask)[0, action]
    assert after.item() > log_probs[0, action].item()
