"""What learning adds: a network against the acquisition alone, on fresh tasks, paired."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.drawing import draw_tasks
from optuna_arrl.sampler.pretraining.drawing import TRAINING_TASKS
from optuna_arrl.sampler.pretraining.episodes import Choose
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["SIDE_BY_SIDE", "Difference", "as_in_a_study", "compare", "highest_seed", "summarise"]

SIDE_BY_SIDE = 64
"""Tasks that are drawn and played at a time: a lot."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Log regret of the network less that of the acquisition alone; below 0 is better.

    Attributes:
        trials: After how many trials.
        tasks: Number of pairs.
        mean: Of the differences.
        half_width: Of its 95 % interval.
        p: Two-sided, of a paired t test (normal limit: meant for hundreds of tasks).
        better: Share of the tasks on which the network is ahead, ties counted half.
    """

    trials: int
    tasks: int
    mean: float
    half_width: float
    p: float
    better: float


def highest_seed(tasks: int) -> int:
    """Return the highest seed that gives so many tasks to judge by: a lot a seed, from it on."""
    return TRAINING_TASKS - math.ceil(tasks / SIDE_BY_SIDE)


def as_in_a_study(network: PolicyNetwork, seed: int) -> Choose:
    """Return a policy that draws from the very distribution that ARRLSampler draws from.

    Args:
        network: What scores.
        seed: Of the draws.
    """
    device = network.log_scale.device
    generator = torch.Generator(device).manual_seed(seed)

    @torch.no_grad()
    def choose(history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        state = policy_input(history, offered, surrogate)
        probabilities = action_distribution(network(state).logits, state.mask).exp()
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    return choose


def compare(
    network: PolicyNetwork, other: PolicyNetwork, *, tasks: int, trials: int, seed: int
) -> Iterator[Tensor]:
    """Play fresh tasks with two networks, the same noise and draws for both.

    Args:
        network, other: The two.
        tasks: How many, in lots of 64.
        trials: Of each study.
        seed: Of the tasks; up to :func:`highest_seed` none was trained on.

    Yields:
        (b, n) log regret of the first less that of the second after every trial, lot by lot.
    """
    device = network.log_scale.device
    for lot in range(math.ceil(tasks / SIDE_BY_SIDE)):
        number = min(SIDE_BY_SIDE, tasks - lot * SIDE_BY_SIDE)
        drawn = draw_tasks(number, seed + lot, device)
        curves = [
            play(drawn, trials, seed + lot, as_in_a_study(each, seed + lot)).log_regret
            for each in (network, other)
        ]
        yield curves[0] - curves[1]


def summarise(differences: Tensor, marks: Sequence[int]) -> list[Difference]:
    """Return the mean differences (b, n) after `marks` trials with their intervals."""
    rows = []
    for mark in marks:
        column = differences[:, mark - 1].double()
        mean = float(column.mean())
        error = max(float(column.std()) / math.sqrt(len(column)), 1e-12)
        better = float((column < 0).double().mean() + 0.5 * (column == 0).double().mean())
        rows.append(
            Difference(
                trials=mark,
                tasks=len(column),
                mean=mean,
                half_width=1.96 * error,
                p=math.erfc(abs(mean) / error / math.sqrt(2.0)),
                better=better,
            )
        )
    return rows
