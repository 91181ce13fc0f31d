"""Imitation: it learns the next step, and is the same each time."""

from __future__ import annotations

import torch

from benchmarks.imitation import imitate
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.surfaces import SurfaceTasks
from optuna_arrl.sampler.pretraining.training import Recipe


def test_imitator_finds_the_best_next_step_likelier_than_the_acquisition_does() -> None:
    recipe = Recipe(
        iterations=12, search_iterations=0, tasks=16, repeats=2, candidates=24, horizons=(8,)
    )
    imitator = imitate(recipe, PolicyNetwork())
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


def test_imitation_is_a_function_of_its_recipe() -> None:
    recipe = Recipe(iterations=1, search_iterations=0, tasks=4, candidates=8, horizons=(4,))
    once, again = (imitate(recipe, PolicyNetwork()).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
