"""Which tasks a seed stands for."""

from __future__ import annotations

import torch

from optuna_arrl.sampler.pretraining.runs import RunTasks
from optuna_arrl.sampler.pretraining.surfaces import SurfaceTasks
from optuna_arrl.sampler.pretraining.tasks import Tasks


__all__ = ["TRAINING_TASKS", "draw_tasks"]

TRAINING_TASKS = 1_000_000
"""Seeds of training tasks begin here; below lie those that nothing was trained on."""


def draw_tasks(count: int, seed: int, device: torch.device | str = "cpu") -> Tasks:
    """Draw tasks, a function of the arguments; those of other seeds are independent.

    Every third seed stands for tasks on real runs, the others for random surfaces.

    Args:
        count: How many.
        seed: From `TRAINING_TASKS` on, to learn on; below, to judge by.
        device: Where they are to be.
    """
    if seed % 3 == 0:
        return RunTasks.draw(count, seed, device, held_out=seed < TRAINING_TASKS)
    return SurfaceTasks.draw(count, seed, device)
