"""Imitation of the best next step, which a training task knows: what each edit would come to.

Cross-entropy learns such labels with far less noise than PPO learns from studies. The states are
those that the network itself comes to (DAgger; Ross et al. 2011).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["Teacher", "imitation_update"]

_EPOCHS, _MINIBATCH = 2, 256
_MOST_GRADIENT = 0.5


class Teacher:
    """A policy that draws as a network says, and remembers which candidate was the best.

    Args:
        network: What says.
        tasks: What is played.
        generator: Of the draws.
    """

    def __init__(self, network: PolicyNetwork, tasks: Tasks, generator: torch.Generator) -> None:
        self.network, self.tasks, self.generator = network, tasks, generator
        self.states: list[PolicyInput] = []
        self.best: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        state = policy_input(history, offered, surrogate)
        regret, ran = self.tasks.evaluate(offered.points)
        edits = state.mask & ~state.floor_only
        self.states.append(state)
        # Where no edit would run, the first legal one: there is nothing to tell them apart by.
        regret = regret.masked_fill(~ran, 1e9).masked_fill(~edits, math.inf)
        self.best.append(regret.argmin(1))
        log_probs = action_distribution(self.network(state).logits, state.mask, 0.0, 1.0)
        return torch.multinomial(log_probs.exp(), 1, generator=self.generator)[:, 0]


def imitation_update(
    network: PolicyNetwork,
    optimizer: torch.optim.Optimizer,
    teacher: Teacher,
    shuffle: torch.Generator,
) -> float:
    """Make the best candidates of all states that were played likelier; return the mean loss.

    Args:
        network: Changed in place.
        optimizer: Of its parameters.
        teacher: What has played.
        shuffle: Order of the minibatches, on the CPU.
    """
    states, best = PolicyInput.cat(teacher.states), torch.cat(teacher.best)
    losses = []
    for _ in range(_EPOCHS):
        order = torch.randperm(len(best), generator=shuffle).to(best.device)
        for begin in range(0, len(best), _MINIBATCH):
            rows = order[begin : begin + _MINIBATCH]
            minibatch = states[rows]
            log_probs = action_distribution(network(minibatch).logits, minibatch.mask, 0.0, 1.0)
            loss = -log_probs.gather(1, best[rows, None]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), _MOST_GRADIENT)
            optimizer.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses)
