"""Whole studies on random tasks, hundreds side by side in lock step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.pretraining.tasks import log_regret
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.proposers import propose
from optuna_arrl.sampler.surrogate import fit
from optuna_arrl.sampler.surrogate import fitted_trials
from optuna_arrl.sampler.surrogate import Hyperparameters
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["Choose", "Episodes", "play"]

Choose = Callable[[History, Candidates, Surrogate], Tensor]
"""A policy: which candidate (B,) int64 to take in each study."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """B finished studies of n trials.

    Attributes:
        history: As the policy saw it.
        log_regret: (B, n) of the best trial by its measured loss so far, noise-free.
    """

    history: History
    log_regret: Tensor


def play(
    tasks: Tasks, trials: int, seed: int, choose: Choose, *, candidates: int = 256
) -> Episodes:
    """Run a study of `trials` trials on every task; a function of the arguments.

    A study begins at the task's default, or where it has none at a uniform draw. Noise and
    candidates are drawn from generators of their own, so that two policies meet the same.

    Args:
        tasks: B tasks.
        trials: Of each study, the first included.
        seed: Of noise and candidates.
        choose: The policy.
        candidates: To choose from at each trial.
    """
    device = tasks.default.device
    noise, draws = (torch.Generator(device).manual_seed(2 * seed + stream) for stream in range(2))
    history = History.empty(tasks.cube)
    theta: Hyperparameters | None = None
    regrets: list[Tensor] = []
    for n in range(trials):
        offered = propose(history, draws, candidates)
        rows = torch.arange(len(tasks), device=device)
        if n == 0:
            index = torch.zeros_like(rows)
            points = torch.where(tasks.has_default[:, None], tasks.default, offered.points[:, 0])
            parents = torch.full_like(rows, -1)
        else:
            if fitted_trials(n) != fitted_trials(n - 1):
                theta = fit(history.first(fitted_trials(n)))
            index = choose(history, offered, Surrogate(history, theta))
            points, parents = offered.points[rows, index], offered.parents[rows, index]
        regret, ran = (part[:, 0] for part in tasks.evaluate(points[:, None]))
        measured = tasks.measure(regret[:, None], noise)[:, 0]
        losses = torch.where(ran, measured, torch.inf)
        history = history.append(points, losses, ran, parents)
        regrets.append(regret)
    curves = torch.stack(regrets, 1)
    losses = torch.where(history.ran, history.losses, torch.inf)
    best = losses.cummin(1).indices
    incumbent = torch.where(history.ran.cumsum(1) > 0, curves.gather(1, best), torch.inf)
    return Episodes(history, log_regret(incumbent))
