"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347), top to bottom.

Equation numbers are the paper's; GAE is Schulman et al., arXiv 1506.02438, equation 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import EXPLORATION_FLOOR
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.policy import PolicyOutput
from optuna_arrl.sampler.policy import SHARPNESS


__all__ = [
    "Batch",
    "PPOConfig",
    "UpdateStatistics",
    "generalized_advantage",
    "ppo_loss",
    "ppo_update",
]


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Constants of an update: the usual ones of PPO, the paper's where it gives any.

    Attributes:
        clip_range: ε, how far the importance ratio may move before its gradient stops.
        value_coefficient: c₁, weight of the squared error of the values.
        entropy_coefficient: c₂, weight of the entropy bonus.
        forecast_coefficient: Weight of the forecast's negative log-likelihood.
        kl_coefficient: Weight of KL(new policy || shipped policy): a few noisy trials may bend
            the shipped policy, not replace it.
        target_kl: No further pass once KL(behaviour || new), estimated on the batch, is larger.
        discount, gae_lambda: γ and λ.
        epochs: Passes over the batch.
        minibatch_size: Steps a gradient is averaged over.
        learning_rate: Of Adam, for whoever makes the optimiser.
        max_grad_norm: Gradients are scaled down to this norm.
        exploration_floor: Uniform share of the distribution that actions are drawn from.
        sharpness: Inverse temperature of the rest of it.
    """

    clip_range: float = 0.2
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.01
    forecast_coefficient: float = 0.1
    kl_coefficient: float = 0.1
    target_kl: float = 0.03
    discount: float = 0.98
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatch_size: int = 64
    learning_rate: float = 1e-3
    max_grad_norm: float = 0.5
    exploration_floor: float = EXPLORATION_FLOOR
    sharpness: float = SHARPNESS


@dataclass(frozen=True, eq=False)
class Batch:
    """N steps to learn from.

    Attributes:
        inputs: N states.
        action: (N,) int64, index of the candidate that was drawn.
        log_prob: (N,) its log-probability under the distribution it was drawn from.
        advantage, return_: (N,), of :func:`generalized_advantage`.
        reference: (N, C) log-probabilities of the shipped policy, -inf where masked.
        score: (N,) warped loss of the outcome (Surrogate.warp); nan where there is none.
        ran: (N,) 1 where the trial ran, 0 where it did not; nan where that is unknown.
    """

    inputs: PolicyInput
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    return_: Tensor
    reference: Tensor
    score: Tensor
    ran: Tensor

    def __len__(self) -> int:
        return len(self.action)

    @classmethod
    def of_study(
        cls,
        inputs: PolicyInput,
        *,
        action: Tensor,
        log_prob: Tensor,
        rewards: Tensor,
        values: Tensor,
        last_value: Tensor | float,
        score: Tensor,
        ran: Tensor,
        shipped: PolicyNetwork,
        config: PPOConfig,
    ) -> Batch:
        """Return consecutive steps of one study, N of each, as a batch.

        Args:
            inputs, action, log_prob, score, ran: As the attributes of the same names.
            rewards, values: (N,), of the steps and of the states that they were taken in.
            last_value: Of the state after the last step.
            shipped: The policy that the new one is held to.
            config: Constants.
        """
        advantage, return_ = generalized_advantage(
            rewards, values, last_value, config.discount, config.gae_lambda
        )
        with torch.no_grad():
            reference = action_distribution(
                shipped(inputs).logits, inputs.mask, config.exploration_floor, config.sharpness
            )
        return cls(inputs, action, log_prob, advantage, return_, reference, score, ran)

    def __getitem__(self, rows: Tensor) -> Batch:
        """Return the steps `rows`."""
        return Batch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class UpdateStatistics:
    """Figures of an update, means over the minibatches of its last pass unless said otherwise.

    Attributes:
        policy_loss, value_loss, forecast_loss: The parts of the loss.
        entropy: Of the policy, in nats.
        approx_kl: KL(behaviour || new), estimated on the drawn actions.
        clip_fraction: Share of the steps whose importance ratio left the clip range.
        reference_kl: KL(new || shipped policy), exact.
        explained_variance: Of the returns by the values, before the update; 0 where all returns
            are equal.
        epochs: Passes made; fewer than asked for where `target_kl` ended the update.
    """

    policy_loss: float
    value_loss: float
    forecast_loss: float
    entropy: float
    approx_kl: float
    clip_fraction: float
    reference_kl: float
    explained_variance: float
    epochs: int


def generalized_advantage(
    rewards: Tensor, values: Tensor, last_value: Tensor | float, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns of a trajectory.

    Args:
        rewards: (..., T), time last.
        values: (..., T), of the states that the rewards' actions were drawn in.
        last_value: (...), of the state after the last reward; 0 where the episode ended there.
        discount: γ.
        gae_lambda: λ.
    """
    advantages = torch.zeros_like(rewards)
    next_value: Tensor | float = last_value
    advantage: Tensor | float = 0.0
    for t in reversed(range(rewards.shape[-1])):
        delta = rewards[..., t] + discount * next_value - values[..., t]  # δ_t = r_t + γV' - V
        advantage = delta + discount * gae_lambda * advantage  # Â_t = δ_t + γλ Â_{t+1}
        advantages[..., t] = advantage
        next_value = values[..., t]
    return advantages, advantages + values


def ppo_loss(
    output: PolicyOutput, batch: Batch, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to minimise, and its parts, detached, by their names in the statistics."""
    mask = batch.inputs.mask
    log_probs = action_distribution(
        output.logits, mask, config.exploration_floor, config.sharpness
    )
    log_ratio = log_probs.gather(-1, batch.action[:, None])[:, 0] - batch.log_prob
    ratio = log_ratio.exp()  # r_t(θ) = π_θ(a|s) / π_old(a|s)
    clipped = ratio.clamp(1.0 - config.clip_range, 1.0 + config.clip_range)
    gain = torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
    policy_loss = -gain.mean()  # -L^CLIP, (7)
    value_loss = (output.value - batch.return_).square().mean()  # L^VF, in (9)
    finite = log_probs.masked_fill(~mask, 0.0)
    probs = finite.exp() * mask
    entropy = -(probs * finite).sum(-1).mean()  # S, in (9)
    reference = batch.reference.masked_fill(~mask, 0.0)
    reference_kl = (probs * (finite - reference)).sum(-1).mean()  # KL[π_θ, π_shipped], as in (8)
    forecast_loss = _forecast_loss(output, batch)
    loss = (
        policy_loss
        + config.value_coefficient * value_loss
        - config.entropy_coefficient * entropy
        + config.kl_coefficient * reference_kl
        + config.forecast_coefficient * forecast_loss
    )
    parts = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "forecast_loss": forecast_loss,
        "entropy": entropy,
        "approx_kl": (ratio - 1.0 - log_ratio).mean(),  # E_old[r - 1 - log r] = KL(old || new)
        "clip_fraction": ((ratio - 1.0).abs() > config.clip_range).float().mean(),
        "reference_kl": reference_kl,
    }
    return loss, {name: part.detach() for name, part in parts.items()}


def _forecast_loss(output: PolicyOutput, batch: Batch) -> Tensor:
    """Return -log N(score; mean, sd²) - log P(ran), for what is known of the drawn candidates."""
    mean, log_sd, crash_logit = (
        head.gather(-1, batch.action[:, None])[:, 0]
        for head in (output.score_mean, output.score_log_sd, output.crash_logit)
    )
    scored = batch.score.isfinite()
    z = (torch.where(scored, batch.score, mean) - mean) * torch.exp(-log_sd)
    score = torch.where(scored, 0.5 * z.square() + log_sd + 0.5 * math.log(2.0 * math.pi), 0.0)
    known = batch.ran.isfinite()
    crashed = 1.0 - torch.where(known, batch.ran, 0.0)
    crash = F.binary_cross_entropy_with_logits(crash_logit, crashed, reduction="none")
    return (score + torch.where(known, crash, 0.0)).mean()


def ppo_update(
    network: PolicyNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: PPOConfig,
    generator: torch.Generator,
) -> UpdateStatistics:
    """Update a network in place by several clipped passes over a batch.

    Args:
        network: What is updated.
        optimizer: Over its parameters, with their state from earlier updates.
        batch: N ≥ 1 steps. Their advantages are standardised here where N > 1.
        config: Constants.
        generator: Shuffles the steps.

    Raises:
        FloatingPointError: When a loss or gradient is not finite. The network may then be half
            updated: work on a copy.
    """
    with torch.no_grad():
        values = network(batch.inputs).value
    advantage = batch.advantage
    if len(batch) > 1:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    standardised = Batch(**{**vars(batch), "advantage": advantage})

    means: dict[str, float] = {}
    epochs = 0
    while epochs < config.epochs and means.get("approx_kl", 0.0) <= config.target_kl:
        epochs += 1
        weighted: list[dict[str, Tensor]] = []
        order = torch.randperm(len(batch), generator=generator)
        for start in range(0, len(batch), config.minibatch_size):
            rows = order[start : start + config.minibatch_size]
            minibatch = standardised[rows]
            loss, parts = ppo_loss(network(minibatch.inputs), minibatch, config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise FloatingPointError(f"loss {loss.item()}, gradient norm {norm.item()}")
            optimizer.step()
            weighted.append({name: part * len(rows) / len(batch) for name, part in parts.items()})
        means = {name: float(sum(parts[name] for parts in weighted)) for name in weighted[0]}
    return UpdateStatistics(
        **means, explained_variance=_explained_variance(values, batch.return_), epochs=epochs
    )


def _explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return 1 - Var(return - value) / Var(return)."""
    variance = returns.var(correction=0)
    if variance == 0.0:
        return 0.0
    return float(1.0 - (returns - values).var(correction=0) / variance)
