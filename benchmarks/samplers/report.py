"""From records to figures: means, ranks, tests, and their picture.

Functions take records as they were run, or as :func:`compact` keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._records import mean_interval
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.statistics import mean_ranks
from benchmarks.samplers.statistics import one_sided_wilcoxon
from benchmarks.samplers.statistics import trials_to_reach
from benchmarks.samplers.study import incumbents
from benchmarks.samplers.suites import task


__all__ = [
    "CHECKPOINTS",
    "Curves",
    "Panel",
    "best_settings",
    "compact",
    "curves",
    "draw_panels",
    "panels",
    "parallel_loss",
    "summary",
]

CHECKPOINTS = (25, 50, 100, 300)
_REFERENCE = "tpe"
# A sampler with fewer studies of a length than these (or than the one with most, where that has
# fewer) is compared with nobody there: it would take most seeds from all others.
_FEWEST = 5

# Sampler → task → seed → noise-free value of the incumbent after every trial, (trials,).
Curves = dict[str, dict[str, dict[int, NDArray[np.float64]]]]


@dataclass(frozen=True)
class Panel:
    """Curves of one task.

    Attributes:
        tables: Sampler → (seeds, trials).
        height: What is drawn against trials.
        log_scale: Of the height.
    """

    tables: Mapping[str, NDArray[np.float64]]
    height: str
    log_scale: bool


def compact(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the figures take of a study: less than half of its record."""
    if "incumbent" in record:
        return dict(record)
    kept = ("task", "sampler", "setting", "seed", "workers", "version")
    ran = [np.inf if value is None else value for value in record["observed"]]
    best = np.minimum.accumulate(ran)
    return {name: record[name] for name in kept} | {
        "incumbent": [float(f"{value:.8g}") for value in incumbents(record)],
        "best observed": {
            str(mark): float(best[mark - 1]) for mark in CHECKPOINTS if mark <= len(best)
        },
        "crashes": record["truth"].count(None),
        "seconds": round(record["ask_seconds"] + record["tell_seconds"], 3),
    }


def curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Return the incumbents of records that differ in sampler, task and seed only."""
    result: Curves = {}
    for record in records:
        by_seed = result.setdefault(record["sampler"], {}).setdefault(record["task"], {})
        kept = record["incumbent"] if "incumbent" in record else incumbents(record)
        by_seed[record["seed"]] = np.array(kept)
    return result


def _best_observed(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return task → sampler → checkpoint → mean of the best observed value: what a study shows.

    Args:
        records: Compact ones.
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        of_sampler = values.setdefault(record["task"], {}).setdefault(record["sampler"], {})
        for mark, value in record["best observed"].items():
            of_sampler.setdefault(mark, []).append(value)
    return {
        name: {
            sampler: {mark: _mean(column) for mark, column in by_mark.items()}
            for sampler, by_mark in by_sampler.items()
        }
        for name, by_sampler in sorted(values.items())
    }


def summary(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all figures of a suite as what JSON can hold.

    A sampler takes part at a checkpoint when five of its studies are that long, and samplers are
    compared on the seeds that all of them have. Where a suite has several tasks they are the
    units: ranks are averaged over a task's seeds first, and the pairs of a test are tasks. Each
    mean stands with half the width of its 95 % interval and the number of its studies.

    Args:
        records: One suite's, of one number of workers; one setting a sampler.
    """
    records = [compact(record) for record in records]
    by_sampler = curves(records)
    tasks = sorted({record["task"] for record in records})
    result: dict[str, Any] = {
        "tasks": {name: {"floor": task(name).floor} for name in tasks},
        "samplers": {
            sampler: _sampler([r for r in records if r["sampler"] == sampler])
            for sampler in by_sampler
        },
        "mean": _by_task(by_sampler, tasks),
        "mean of the best observed, noise included": _best_observed(records),
        "mean rank": {},
        "one-sided Wilcoxon, p that the first is below the second": {},
    }
    for checkpoint in CHECKPOINTS:
        table = _comparable(by_sampler, tasks, checkpoint)
        if len(table) < 2:
            continue
        ranks = {name: mean_ranks({s: table[s][name] for s in table}) for name in tasks}
        result["mean rank"][str(checkpoint)] = {
            s: round(float(np.mean([ranks[name][s] for name in tasks])), 6) for s in table
        } | {"seeds": min(len(values) for values in table[next(iter(table))].values())}
        result["one-sided Wilcoxon, p that the first is below the second"][str(checkpoint)] = {
            a: {b: _p_value(by_sampler, tasks, checkpoint, a, b) for b in table if b != a}
            for a in table
        }
    if len(tasks) == 1 and _REFERENCE in by_sampler:
        result["trials to reach"] = _reach(by_sampler, tasks[0])
    return result


def parallel_loss(
    serial: Iterable[Mapping[str, Any]], parallel: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, list[float]]]:
    """Return by how much several workers leave a sampler behind one, after as many trials.

    Args:
        serial: Records of one worker, on one task.
        parallel: Records of another number of workers.

    Returns:
        Sampler → checkpoint → mean over common seeds of the incumbent's difference, and half
        width of its 95 % interval.
    """
    one, many = curves(serial), curves(parallel)
    result: dict[str, dict[str, list[float]]] = {}
    for sampler in many:
        result[sampler] = {}
        for name, by_seed in many[sampler].items():
            alone = one.get(sampler, {}).get(name, {})
            for checkpoint in CHECKPOINTS:
                differences = [
                    float(curve[checkpoint - 1] - alone[seed][checkpoint - 1])
                    for seed, curve in by_seed.items()
                    if seed in alone and min(len(curve), len(alone[seed])) >= checkpoint
                ]
                if differences:
                    mean, half = mean_interval(differences)
                    result[sampler][str(checkpoint)] = [
                        float(f"{mean:.3g}"),
                        float(f"{half:.2g}"),
                    ]
    return result


def best_settings(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return every sampler's best setting, and the score of each of its settings.

    A setting's score is its mean distance from the mean of all settings, in standard deviations
    over seeds and settings, averaged over tasks and checkpoints: what the table of means shows,
    on a scale that tasks share. The lowest wins, of equals the first.

    Raises:
        ValueError: When a sampler's studies are too short to be judged.
    """
    by_sampler: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        of_sampler = by_sampler.setdefault(record["sampler"], {})
        of_sampler.setdefault(record["setting"], []).append(record)
    result = {}
    for sampler, by_setting in by_sampler.items():
        as_samplers: Curves = {
            setting: curves(of_setting)[sampler] for setting, of_setting in by_setting.items()
        }
        tasks = sorted({name for by_task in as_samplers.values() for name in by_task})
        distances: dict[str, list[float]] = {setting: [] for setting in as_samplers}
        for checkpoint in CHECKPOINTS:
            table = _comparable(as_samplers, tasks, checkpoint)
            for name in tasks if table else []:
                values = np.concatenate([by_task[name] for by_task in table.values()])
                spread = float(values.std()) or 1.0  # where all are equal none is ahead
                for setting, by_task in table.items():
                    distances[setting].append((by_task[name].mean() - values.mean()) / spread)
        scores = {s: round(float(np.mean(d)), 3) for s, d in distances.items() if d}
        if not scores:
            raise ValueError(
                f"No study of {sampler} has {CHECKPOINTS[0]} trials: run longer ones to choose by."
            )
        best = min(scores, key=lambda s: scores[s])
        result[sampler] = {
            "setting": best,
            "scores": scores,
            "means": {
                s: {name: _means(as_samplers[s][name]) for name in tasks} for s in as_samplers
            },
            "seeds": sorted({r["seed"] for of_setting in by_setting.values() for r in of_setting}),
        }
    return result


def panels(records: Iterable[Mapping[str, Any]]) -> dict[str, Panel]:
    """Return a panel a task: the incumbent against trials."""
    by_sampler = curves(records)
    tasks = sorted({name for by_task in by_sampler.values() for name in by_task})
    found = {}
    for name in tasks:
        floor = task(name).floor
        found[name] = Panel(
            tables={
                sampler: _table(by_task[name]) - (floor or 0.0)
                for sampler, by_task in by_sampler.items()
                if name in by_task
            },
            height="incumbent" if floor is None else f"incumbent - {floor:g}",
            log_scale=floor is not None,
        )
    return found


def draw_panels(panels: Mapping[str, Panel], path: Path) -> None:
    """Draw means with their 95 % intervals against trials, a panel a title."""
    from matplotlib.figure import Figure

    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (8, 5) if len(panels) == 1 else (4 * columns, 3 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        tables = panel.tables
        # The legend in the order of the lines' ends, and a color a sampler in every figure.
        for sampler in sorted(tables, key=lambda s: -float(tables[s][:, -1].mean())):
            mean, half = _mean_interval(tables[sampler])
            trials = np.arange(1, len(mean) + 1)
            color = f"C{list(CONTENDERS).index(sampler)}"
            axis.plot(trials, mean, label=sampler, color=color, lw=2.5 if sampler == "arrl" else 1)
            if len(tables[sampler]) > 1:
                low, high = mean - half, mean + half
                axis.fill_between(trials, low, high, color=color, alpha=0.12, lw=0)
        axis.set_title(title)
        axis.set_xlabel("trials")
        axis.set_ylabel(panel.height)
        if panel.log_scale:
            axis.set_yscale("log")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    axes.flat[0].legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _sampler(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a sampler's compact records."""
    lengths = [len(r["incumbent"]) for r in records]
    crashes = [r["crashes"] / length for r, length in zip(records, lengths, strict=True)]
    return {
        "setting": ", ".join(sorted({r["setting"] for r in records})),
        "studies": len(records),
        "seeds": len({r["seed"] for r in records}),
        "trials a study": max(lengths),
        "crash share": round(float(np.mean(crashes)), 4),
        "ms a trial, ask and tell": round(
            1000 * sum(r["seconds"] for r in records) / sum(lengths), 2
        ),
    }


def _by_task(by_sampler: Curves, tasks: list[str]) -> dict[str, dict[str, Any]]:
    """Return task → sampler → checkpoint → mean, half width and number of studies."""
    return {
        name: {s: _means(by_task[name]) for s, by_task in by_sampler.items() if name in by_task}
        for name in tasks
    }


def _means(by_seed: Mapping[int, NDArray[np.float64]]) -> dict[str, list[float]]:
    """Return checkpoint → mean over seeds, half width of its 95 % interval, number of seeds."""
    result = {}
    for checkpoint in CHECKPOINTS:
        values = [float(c[checkpoint - 1]) for c in by_seed.values() if len(c) >= checkpoint]
        if values:
            result[str(checkpoint)] = _mean(values)
    return result


def _mean(values: list[float]) -> list[float]:
    """Return the mean, half width of its 95 % interval, and how many there are."""
    mean, half = mean_interval(values)
    return [float(f"{mean:.6g}"), float(f"{half:.2g}"), len(values)]


def _comparable(
    by_sampler: Curves, tasks: list[str], checkpoint: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return sampler → task → (seeds,) values of those that got so far, on common seeds."""
    far: dict[str, dict[str, dict[int, float]]] = {}
    for sampler, by_task in by_sampler.items():
        values = {
            name: {s: c[checkpoint - 1] for s, c in by_seed.items() if len(c) >= checkpoint}
            for name, by_seed in by_task.items()
        }
        if all(values.get(name) for name in tasks):
            far[sampler] = values
    if not far:
        return {}
    numbers = {s: min(len(of_task) for of_task in values.values()) for s, values in far.items()}
    fewest = min(_FEWEST, max(numbers.values()))
    far = {sampler: values for sampler, values in far.items() if numbers[sampler] >= fewest}
    common = {
        name: sorted(set.intersection(*(set(values[name]) for values in far.values())))
        for name in tasks
    }
    return {
        sampler: {name: np.array([values[name][seed] for seed in common[name]]) for name in tasks}
        for sampler, values in far.items()
    }


def _p_value(
    by_sampler: Curves, tasks: list[str], checkpoint: int, ours: str, theirs: str
) -> float:
    """Return p of two samplers that :func:`_comparable` returned together."""
    pair = {sampler: by_sampler[sampler] for sampler in (ours, theirs)}
    table = _comparable(pair, tasks, checkpoint)
    if len(tasks) == 1:
        units = [table[s][tasks[0]] for s in (ours, theirs)]
    else:
        ranks = [mean_ranks({s: table[s][name] for s in (ours, theirs)}) for name in tasks]
        units = [np.array([r[s] for r in ranks]) for s in (ours, theirs)]
    return float(f"{one_sided_wilcoxon(*units):.2g}")


def _reach(by_sampler: Curves, name: str) -> dict[str, dict[str, int | None]]:
    """Return how many trials a sampler's mean takes to reach the reference's mean values.

    Means are over all studies that are as long as the reference's, of which a sampler needs as
    many as for a comparison.
    """
    result: dict[str, dict[str, int | None]] = {}
    for checkpoint in (100, 300):
        long = {
            sampler: [c[:checkpoint] for c in by_task[name].values() if len(c) >= checkpoint]
            for sampler, by_task in by_sampler.items()
        }
        fewest = min(_FEWEST, max(map(len, long.values())))
        means = {s: np.mean(part, axis=0) for s, part in long.items() if len(part) >= fewest > 0}
        if _REFERENCE in means:
            target = means[_REFERENCE][checkpoint - 1]
            result[f"{_REFERENCE} at {checkpoint}"] = {
                sampler: trials_to_reach(mean, target) for sampler, mean in means.items()
            }
    return result


def _table(by_seed: Mapping[int, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the curves (seeds, trials) as far as the shortest goes."""
    shortest = min(len(curve) for curve in by_seed.values())
    return np.array([curve[:shortest] for curve in by_seed.values()])


def _mean_interval(table: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and half width per column of (seeds, trials)."""
    pairs = [mean_interval(list(column)) for column in table.T]
    return np.array([m for m, _ in pairs]), np.array([h for _, h in pairs])
