"""The rival of learning by whole studies: a policy that imitates the best edit on offer.

    python -m benchmarks.retraining FOLDER imitation

A training task knows what every candidate would come to, so the best next step has a label, and
cross-entropy learns it with far less noise than PPO learns from studies. The states are those that
the network itself comes to (DAgger; Ross et al. 2011). Horizons, candidates, learning rate and
the numbers of studies and iterations are those of PPO in `arrl pretrain`; no task is played twice.
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
from optuna_arrl.sampler.pretraining.drawing import draw_tasks
from optuna_arrl.sampler.pretraining.drawing import TRAINING_TASKS
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.pretraining.training import Recipe
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


_EPOCHS, _MINIBATCH = 2, 256
_MOST_GRADIENT = 0.5


class _Teacher:
    """Draws as the network says, and remembers which candidate was the best."""

    def __init__(self, network: PolicyNetwork, tasks: Tasks, seed: int) -> None:
        self.network, self.tasks = network, tasks
        self.generator = torch.Generator().manual_seed(seed)
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


def imitate(recipe: Recipe, network: PolicyNetwork) -> PolicyNetwork:
    """Let a network learn to take the best next step, and return it."""
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.98))
    for iteration in range(recipe.search_iterations, recipe.iterations):
        horizon = recipe.horizon(iteration)
        seed = TRAINING_TASKS + 10_000 * recipe.seed + iteration
        number = recipe.repeats * round(recipe.tasks * math.sqrt(recipe.horizons[0] / horizon))
        tasks = draw_tasks(number, seed)
        teacher = _Teacher(network, tasks, seed)
        curve = play(tasks, horizon, seed, teacher, candidates=recipe.candidates).log_regret
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (1.0 - 0.9 * recipe.progress(iteration))
        states, best = PolicyInput.cat(teacher.states), torch.cat(teacher.best)
        shuffle = torch.Generator().manual_seed(seed)
        losses = []
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(best), generator=shuffle).split(_MINIBATCH):
                minibatch = states[rows]
                log_probs = action_distribution(
                    network(minibatch).logits, minibatch.mask, 0.0, 1.0
                )
                loss = -log_probs.gather(1, best[rows, None]).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), _MOST_GRADIENT)
                optimizer.step()
                losses.append(float(loss.detach()))
        print(
            f"{iteration + 1}/{recipe.iterations}: {horizon} trials, "
            f"loss {sum(losses) / len(losses):.3f}, log regret {curve[:, -1].mean():+.3f}",
            flush=True,
        )
    return network
