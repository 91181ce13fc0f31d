"""How much to explore, by policy search over whole studies.

Parameter-exploring policy gradients (PGPE; Sehnke et al. 2010, with the symmetric samples of its
section 3.2): what is perturbed is not a choice but the weights of `Exploration`, for a whole study
at a time. Each task is played twice, with w + σ ε and w - σ ε, the same noise and the same draws;

    ∇ E[R] ≈ mean of (R₊ - R₋) ε / (2 σ)

A return R is minus the log regret of the incumbent, averaged over the study: it pays to find
early, and to go on finding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.episodes import Choose
from optuna_arrl.sampler.pretraining.episodes import Episodes
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["search_gradient"]

_WEIGHT = "exploration.weight"
_SIGMA = 0.4  # of the perturbations


def search_gradient(
    network: PolicyNetwork, tasks: Tasks, horizon: int, seed: int
) -> tuple[Tensor, Episodes]:
    """Return an estimate of the gradient of the mean return by the exploration weights.

    Args:
        network: The policy; it draws as in a study, from as many candidates.
        tasks: B tasks, each of which is played twice.
        horizon: Trials of a study.
        seed: Of perturbations, noise and draws.

    Returns:
        The gradient, of the weights' shape, and the studies of the first sign.
    """
    weight = network.exploration.weight.detach()
    generator = torch.Generator(weight.device).manual_seed(seed)
    shape = (len(tasks), *weight.shape)
    direction = torch.randn(shape, generator=generator, device=weight.device)
    played = [
        play(
            tasks,
            horizon,
            seed,
            _with_weights(network, weight + sign * _SIGMA * direction, seed),
        )
        for sign in (1.0, -1.0)
    ]
    better = played[1].log_regret.mean(1) - played[0].log_regret.mean(1)
    return (better[:, None, None] * direction).mean(0) / (2.0 * _SIGMA), played[0]


def _with_weights(network: PolicyNetwork, weights: Tensor, seed: int) -> Choose:
    """Return the policy in which every study has exploration weights of its own."""
    generator = torch.Generator(weights.device).manual_seed(seed)

    @torch.no_grad()
    def choose(history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        state = policy_input(history, offered, surrogate)
        output = functional_call(network, {_WEIGHT: weights}, (state,))
        odds = action_distribution(output.logits, state.mask).exp()
        return torch.multinomial(odds, 1, generator=generator)[:, 0]

    return choose
