"""Many studies, each written down as it ends, none run twice."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import as_completed
from concurrent.futures import ProcessPoolExecutor
import json
import multiprocessing
from pathlib import Path
from typing import Any
from typing import NamedTuple

import optuna

from benchmarks._records import append
from benchmarks._records import load
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.rivals import Setting
from benchmarks.samplers.study import run_study
from benchmarks.samplers.suites import SUITES
from benchmarks.samplers.suites import task


__all__ = [
    "CHOSEN_FILE",
    "NotChosen",
    "Plan",
    "chosen_setting",
    "current",
    "is_current",
    "plans",
    "run",
    "settings_of",
]

# Suite → sampler → the setting that did best on seeds that are not reported, and by how much.
CHOSEN_FILE = Path(__file__).with_name("chosen.json")


class NotChosen(ValueError):
    """A sampler has several settings on a suite, and none has been chosen."""


class Plan(NamedTuple):
    """A study that is to be run; all but `trials` identifies it."""

    task: str
    sampler: str
    setting: str
    seed: int
    workers: int
    trials: int

    @property
    def version(self) -> str:
        return f"{task(self.task).version}; {CONTENDERS[self.sampler].version()}"


def chosen_setting(suite: str, sampler: str) -> Setting:
    """Return the setting under which a sampler is reported.

    Raises:
        NotChosen: When there are several to choose from and none has been chosen.
    """
    settings = {setting for name in SUITES[suite] for setting in settings_of(sampler, name)}
    if len(settings) == 1:
        return settings.pop()
    chosen = json.loads(CHOSEN_FILE.read_text(encoding="utf-8")) if CHOSEN_FILE.exists() else {}
    try:
        return Setting.parse(chosen[suite][sampler]["setting"])
    except KeyError:
        raise NotChosen(
            f"No setting of {sampler} has been chosen on {suite}: `run --settings all` on other "
            "seeds than those to be reported, then `choose`."
        ) from None


def plans(
    suite: str,
    samplers: Iterable[str],
    seeds: Iterable[int],
    trials: int,
    *,
    workers: int = 1,
    all_settings: bool = False,
) -> list[Plan]:
    """Return the studies of a suite, seed by seed, so that what is there is always comparable.

    Args:
        suite: A name in `SUITES`.
        samplers: Names in `CONTENDERS`.
        seeds: One study each.
        trials: Of each study.
        workers: Of each study.
        all_settings: Every setting of the samplers instead of the chosen one.
    """
    samplers = list(samplers)
    return [
        Plan(name, sampler, str(setting), seed, workers, trials)
        for seed in seeds
        for name in SUITES[suite]
        for sampler in samplers
        for setting in (
            settings_of(sampler, name) if all_settings else [chosen_setting(suite, sampler)]
        )
    ]


def run(todo: Iterable[Plan], records: Path, *, jobs: int = 1) -> Iterator[dict[str, Any]]:
    """Run the studies that a file of records does not hold yet; yield each as it is written.

    Args:
        todo: The studies.
        records: Gets one JSON line a study.
        jobs: How many processes run them.
    """
    there = {_key(record): len(record["truth"]) for record in load(records)}
    missing = [plan for plan in todo if there.get((*plan[:-1], plan.version), 0) < plan.trials]
    if jobs == 1:
        for plan in missing:
            record = _run(plan)
            append(records, record)
            yield record
        return
    # Fresh interpreters: threads of torch do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            for future in as_completed([pool.submit(_run, plan) for plan in missing]):
                append(records, future.result())
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def current(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that today's tasks and samplers would give again.

    Of a study that was run once more for more trials, the longer record.
    """
    longest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in filter(is_current, records):
        other = longest.get(_key(record))
        if other is None or len(other["truth"]) < len(record["truth"]):
            longest[_key(record)] = dict(record)
    return list(longest.values())


def is_current(record: Mapping[str, Any]) -> bool:
    """Return whether a record is one of today's task and sampler."""
    known = {name for names in SUITES.values() for name in names}
    if record["sampler"] not in CONTENDERS or record["task"] not in known:
        return False
    plan = Plan(record["task"], record["sampler"], record["setting"], 0, 1, 0)
    return bool(record["version"] == plan.version)


def settings_of(sampler: str, task_name: str) -> list[Setting]:
    """Return the settings that a sampler has to choose from on a task."""
    return CONTENDERS[sampler].settings(task(task_name))


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    identity = ("task", "sampler", "setting", "seed", "workers", "version")
    return tuple(record[name] for name in identity)


def _run(plan: Plan) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)  # several processes, and times that can be compared
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    setting = Setting.parse(plan.setting)
    return run_study(task(plan.task), plan.sampler, setting, plan.seed, plan.trials, plan.workers)
