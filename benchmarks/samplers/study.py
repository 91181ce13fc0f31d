"""One study of one sampler on one task, on a simulated clock."""

from __future__ import annotations

from collections.abc import Mapping
import heapq
import time
from typing import Any

import numpy as np
import optuna

from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.rivals import Setting
from benchmarks.samplers.task import Outcome
from benchmarks.samplers.task import Task
from optuna_arrl.trajectory import RAN_CONSTRAINT


__all__ = ["incumbents", "run_study", "start_of", "tell"]

# Set apart from what samplers derive from the same seed.
_NOISE_STREAM = 0x6E6F697365


def start_of(task: Task, seed: int) -> Mapping[str, Any]:
    """Return the configuration of trial 0: the task's default, else a random one by seed."""
    if task.default is not None:
        return task.default
    own = int(np.random.SeedSequence([_NOISE_STREAM, seed]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=own))
    return study.ask(dict(task.space)).params


def run_study(
    task: Task,
    sampler: str,
    setting: Setting,
    seed: int,
    trials: int,
    workers: int = 1,
) -> dict[str, Any]:
    """Run a study and return its record.

    Noise is a function of seed and trial number, so that samplers that choose alike see alike.
    Several workers begin when trial 0 has ended; each asks for a trial as soon as its last one
    has ended on the simulated clock. Lists are in the order in which trials ended.

    Args:
        task: What is minimised.
        sampler: A name in `CONTENDERS`.
        setting: How crashes are told, and the like.
        seed: Of the sampler, the noise and, on a task without a default, the start.
        trials: How many end.
        workers: How many run at a time.

    Returns:
        What identifies the study; `observed` and `truth` of every trial (:obj:`None`: a crash),
        `clock` (seconds at which it ended), `ask_seconds` and `tell_seconds` (of the sampler,
        in all).
    """
    contender = CONTENDERS[sampler]
    start = start_of(task, seed)
    study = optuna.create_study(sampler=contender.make(task.space, start, seed, setting))
    study.enqueue_trial(dict(start))
    running: list[tuple[float, int, optuna.Trial, Outcome]] = []
    now = asked_seconds = told_seconds = 0.0
    asked = 0
    ended: list[Outcome] = []
    clock: list[float] = []
    while len(ended) < trials:
        # The start is measured alone: with workers beside it, crashes would end before it.
        while len(running) < (workers if ended else 1) and asked < trials:
            began = time.perf_counter()
            trial = study.ask(dict(task.space))
            asked_seconds += time.perf_counter() - began
            rng = np.random.default_rng([_NOISE_STREAM, seed, trial.number])
            outcome = task.evaluate(trial.params, rng)
            heapq.heappush(running, (now + outcome.seconds, trial.number, trial, outcome))
            asked += 1
        now, _, trial, outcome = heapq.heappop(running)
        began = time.perf_counter()
        tell(study, trial, outcome, task, setting, ended)
        told_seconds += time.perf_counter() - began
        ended.append(outcome)
        clock.append(now)
    return {
        "task": task.name,
        "sampler": sampler,
        "setting": str(setting),
        "seed": seed,
        "workers": workers,
        "version": f"{task.version}; {contender.version()}",
        "observed": [_rounded(outcome.observed) for outcome in ended],
        "truth": [_rounded(outcome.truth) for outcome in ended],
        "clock": [round(seconds, 1) for seconds in clock],
        "ask_seconds": round(asked_seconds, 3),
        "tell_seconds": round(told_seconds, 3),
    }


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    outcome: Outcome,
    task: Task,
    setting: Setting,
    ended: list[Outcome],
) -> None:
    """Tell a study how a trial ended, a crash as a setting says.

    Args:
        study: Of the trial.
        trial: One that was asked for.
        outcome: Its.
        task: What is minimised.
        setting: How crashes are told.
        ended: The outcomes of the trials before it.
    """
    value = outcome.observed
    if setting.coding == "failure+constraint":
        trial.set_constraint(RAN_CONSTRAINT, 1.0 if value is None else -1.0)
    if value is None:
        value = task.failure
        if setting.coding == "worst":
            ran = [o.observed for o in ended if o.observed is not None]
            value = max(ran, default=task.failure)
    study.tell(trial, value)


def incumbents(record: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the noise-free value of the best *observed* trial after every trial, (trials,).

    A sampler is judged by what it would hand over, not by the luckiest measurement. Infinite
    until a trial has run.
    """
    best, holder = np.inf, np.inf
    curve = np.empty(len(record["observed"]))
    for i, (observed, truth) in enumerate(zip(record["observed"], record["truth"], strict=True)):
        if observed is not None and observed < best:
            best, holder = observed, truth
        curve[i] = holder
    return curve


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.8g}")
