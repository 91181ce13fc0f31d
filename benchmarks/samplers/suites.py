"""Which tasks there are: `tasks.json`, committed before any of them judged a sampler."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from benchmarks.samplers.task import Task


__all__ = ["SUITES", "task"]

# Suite → names of its tasks.
SUITES: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("tasks.json").read_text(encoding="utf-8")
)


@functools.cache
def task(name: str) -> Task:
    """Return the task of a name in `SUITES`; imports what only its suite needs."""
    match name.split("/"):
        case ["replay"]:
            from benchmarks.samplers.replay_task import replay

            return replay()
        case ["bbob", function, dimension, instance]:
            from benchmarks.samplers.functions import bbob

            return bbob(int(function[1:]), int(dimension[1:]), int(instance[1:]))
        case ["sklearn", model]:
            from benchmarks.samplers.model_selection import model_selection

            return model_selection(model)
        case [benchmark, dataset]:
            from benchmarks.samplers.tabular import tabular

            return tabular(benchmark, dataset)
    raise ValueError(f"There is no task '{name}'.")
