"""Imitation: it learns the next step, and is the same each time."""

from __future__ import annotations

import torch

from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.surfaces import SurfaceTasks
from optuna_arrl.sampler.pretraining.training import Recipe
from optuna_arrl.sampler.pretraining.training import Training


def test_imitator_finds_the_best_next_step_likelier_than_the_acquisition_does() -> None:
    recipe = Recipe(
        search_iterations=0,
        imitation_iterations=12,
        ppo_iterations=0,
        tasks=16,
        repeats=2,
        candidates=24,
        horizons=(8,),
    )
    training = Training(recipe)
    losses = [figures["imitation_loss"] for figures in training]
    assert sum(losses[6:]) < sum(losses[:6])
    imitator = training.network
    tasks = SurfaceTasks.draw(64, 7)
    log_likelihood: dict[str, list[torch.Tensor]] = {"imitator": [], "acquisition": []}

    def choose(history, offered, surrogate):  # type: ignore[no-untyped-def]
        state = policy_input(history, offered, surrogate)
        regret, ran = tasks.evaluate(offered.points)
        edits = state.mask & ~state.floor_only
        best = regret.masked_fill(~(ran & edits), float("inf")).argmin(1)
        for name, network in (("imitator", imitator), ("acquisition", PolicyNetwork())):
            with torch.no_grad():
                log_probs = action_distribution(network(state).logits, state.mask, 0.01, 1.0)
            log_likelihood[name].append(log_probs.gather(1, best[:, None])[:, 0])
        return edits.float().argmax(1)

    play(tasks, 8, 7, choose, candidates=24)
    means = {name: float(torch.cat(parts).mean()) for name, parts in log_likelihood.items()}
    assert means["imitator"] > means["acquisition"]
