"""How much to explore, by policy search over whole studies.

Parameter-exploring policy gradients (PGPE; Sehnke et al. 2010, with the symmetric samples of its
section 3.2): what is perturbed is not a choice but the weights of `Exploration`, for a whole study
at a time. Each task is played twice, with w + σ ε and w - σ ε, the same noise and the same draws;

    ∇ E[R] ≈ mean of (R₊ - R₋) ε / (2 σ)

A return R is minus the log regret of the incumbent, averaged over the study: it pays to find
early, and to go on finding.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch import Tensor

from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.checking import as_in_a_study
from optuna_arrl.sampler.pretraining.episodes import Episodes
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.tasks import Tasks


__all__ = ["search_gradient"]

_SIGMA = 0.4  # of the perturbations
# Tasks are drawn from the same seed: without this a task's perturbation would be made of the very
# numbers that chose its slots.
_APART = 1 << 31


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
    generator = torch.Generator(weight.device).manual_seed(seed + _APART)
    shape = (len(tasks), *weight.shape)
    direction = torch.randn(shape, generator=generator, device=weight.device)
    played = [
        play(
            tasks,
            horizon,
            seed,
            as_in_a_study(_with_weights(network, weight + sign * _SIGMA * direction), seed),
        )
        for sign in (1.0, -1.0)
    ]
    better = played[1].log_regret.mean(1) - played[0].log_regret.mean(1)
    return (better[:, None, None] * direction).mean(0) / (2.0 * _SIGMA), played[0]


@torch.no_grad()
def _with_weights(network: PolicyNetwork, weights: Tensor) -> PolicyNetwork:
    """Return a copy in which every study has exploration weights of its own, (B, 4, K)."""
    copied = copy.deepcopy(network)
    copied.exploration.weight = nn.Parameter(weights)
    return copied
