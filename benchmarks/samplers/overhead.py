"""What a sampler costs: milliseconds a suggestion and an update, and memory, as a study grows.

    python -m benchmarks.samplers.overhead RECORDS --samplers arrl,tpe

Replay with 100, 1,000 and 10,000 finished trials in memory; every figure from a process of its
own, sampler after sampler at each size, so that all see the same machine. To be run alone on it.
Interrupted, it goes on. Prints a table and draws it in ``RECORDS.png``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports numpy or torch

import numpy as np
import optuna
import psutil

from benchmarks._arguments import at_least
from benchmarks._arguments import growing_file
from benchmarks._arguments import one_of
from benchmarks._records import append
from benchmarks._records import load
from benchmarks.samplers.harness import chosen_setting
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.rivals import Setting
from benchmarks.samplers.study import start_of
from benchmarks.samplers.study import tell
from benchmarks.samplers.suites import task
from benchmarks.samplers.task import Outcome


# The first update meets the whole history; of the last 32 trials two have one, as always.
_TRIALS = 40
_LAST = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=growing_file)
    parser.add_argument(
        "--samplers",
        type=one_of(*CONTENDERS),
        default="arrl,tpe",
        help=f"of {','.join(CONTENDERS)}",
    )
    parser.add_argument(
        "--finished", type=at_least(1), nargs="+", default=(100, 1000, 10000), help="trials"
    )
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)  # sampler, finished trials
    args = parser.parse_args()
    if args.cell is not None:
        print(json.dumps(measure(args.cell[0], int(args.cell[1]))))
        return
    there = {(r["sampler"], r["finished"], r["version"]) for r in load(args.records)}
    for finished in args.finished:
        for sampler in args.samplers:
            if (sampler, finished, CONTENDERS[sampler].version()) in there:
                continue
            command = [sys.executable, "-m", "benchmarks.samplers.overhead", str(args.records)]
            done = subprocess.run(
                [*command, "--cell", sampler, str(finished)], stdout=subprocess.PIPE, check=True
            )
            append(args.records, json.loads(done.stdout))
    records = [r for r in load(args.records) if r["version"] == CONTENDERS[r["sampler"]].version()]
    print(_table(records))
    _plot(records, args.records.with_suffix(".png"))


def measure(sampler: str, finished: int) -> dict[str, Any]:
    """Return what some trials cost on top of so many finished ones.

    Returns:
        Milliseconds: `suggestion` (median of asking for a trial), `mean` (its mean over the last
        32, updates included), `update` (the longest stay in `before_trial` after the first),
        `first` (asking for the first trial: what a process that resumes a study waits), `tell`
        (median). MiB: `memory` of the process above what the finished trials took, at its end.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    replay = task("replay")
    setting = chosen_setting("replay", sampler)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.add_trials(_history(finished, setting))
    process = psutil.Process()
    memory = process.memory_info().rss
    study.sampler = CONTENDERS[sampler].make(replay.space, start_of(replay, 0), 0, setting)
    ahead = _timed(study.sampler, "before_trial")
    asked, told = [], []
    ended: list[Outcome] = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        trial = study.ask(dict(replay.space))
        asked.append(time.perf_counter() - began)
        outcome = replay.evaluate(trial.params, np.random.default_rng(trial.number))
        began = time.perf_counter()
        tell(study, trial, outcome, replay, setting, ended)
        told.append(time.perf_counter() - began)
        ended.append(outcome)
    return {
        "sampler": sampler,
        "finished": finished,
        "version": CONTENDERS[sampler].version(),
        "ms": {
            "suggestion": round(1000 * statistics.median(asked[1:]), 2),
            "mean": round(1000 * statistics.mean(asked[-_LAST:]), 2),
            "update": round(1000 * max(ahead[1:]), 2),
            "first": round(1000 * asked[0], 2),
            "tell": round(1000 * statistics.median(told), 2),
        },
        "memory": round((process.memory_info().rss - memory) / 2**20, 1),
    }


def _history(finished: int, setting: Setting) -> list[optuna.trial.FrozenTrial]:
    """Return finished trials of random search on replay, the default first, as they are told."""
    replay = task("replay")
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    source.enqueue_trial(dict(replay.default or {}))
    ended: list[Outcome] = []
    for number in range(finished):
        trial = source.ask(dict(replay.space))
        outcome = replay.evaluate(trial.params, np.random.default_rng(number))
        tell(source, trial, outcome, replay, setting, ended)
        ended.append(outcome)
    return source.get_trials(deepcopy=False)


def _table(records: list[dict[str, Any]]) -> str:
    """Return what was measured in Markdown."""
    lines = [
        "| finished trials | sampler | suggestion, ms | mean, ms | update, ms | first, ms "
        "| tell, ms | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        ms = record["ms"]
        cells = [f"{record['finished']:,}", record["sampler"]]
        cells += [f"{ms[name]:,.0f}" for name in ("suggestion", "mean", "update", "first")]
        lines.append(f"| {' | '.join(cells)} | {ms['tell']:.1f} | {record['memory']:.0f} |")
    return "\n".join(lines)


def _plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory against finished trials."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    time_axis, memory_axis = figure.subplots(1, 2)
    for sampler in dict.fromkeys(record["sampler"] for record in records):
        own = sorted((r for r in records if r["sampler"] == sampler), key=lambda r: r["finished"])
        finished = [record["finished"] for record in own]
        color = f"C{list(CONTENDERS).index(sampler)}"
        suggestion = [record["ms"]["suggestion"] for record in own]
        time_axis.plot(finished, suggestion, "o-", color=color, label=f"{sampler}, a suggestion")
        if any(record["ms"]["update"] > 1 for record in own):  # below, an empty call
            update = [record["ms"]["update"] for record in own]
            time_axis.plot(finished, update, "o--", color=color, label=f"{sampler}, an update")
        memory = [record["memory"] for record in own]
        memory_axis.plot(finished, memory, "o-", color=color, label=sampler)
    for axis, unit in ((time_axis, "ms"), (memory_axis, "MiB")):
        axis.set_xscale("log")
        axis.set_xlabel("finished trials")
        axis.set_ylabel(unit)
        axis.legend(frameon=False, fontsize="small")
    time_axis.set_yscale("log")
    figure.savefig(path, dpi=120)


def _timed(sampler: optuna.samplers.BaseSampler, name: str) -> list[float]:
    """Time every call of a method of this sampler from here on; return the list of seconds."""
    seconds: list[float] = []
    method = getattr(sampler, name)

    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(sampler, name, timed)
    return seconds


if __name__ == "__main__":
    main()
