"""Figures as Markdown tables, as they stand in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import math
from typing import Any

from benchmarks.samplers.report import CHECKPOINTS


__all__ = ["loss_table", "published_table", "sampler_table", "settings_table"]

_OURS = "arrl"


def sampler_table(figures: Mapping[str, Any]) -> str:
    """Return what :func:`summary` returned as tables for a reader, in Markdown."""
    below = figures["one-sided Wilcoxon, p that the first is below the second"]
    samplers, ranks = figures["samplers"], figures["mean rank"]
    means = figures["mean"]
    single = len(means) == 1
    shown = next(iter(means.values())) if single else ranks
    there = {c for of in shown.values() for c in of} if single else ranks.keys()
    checkpoints = [c for c in map(str, CHECKPOINTS) if c in there]
    heads = ["sampler", "setting", *checkpoints]
    heads += [f"p that {_OURS} is below", "crashes", "seeds", "ms a trial"]
    lines = _head(heads)

    def at(sampler: str, checkpoint: str) -> Any:
        return shown[sampler].get(checkpoint) if single else shown[checkpoint].get(sampler)

    def last(sampler: str) -> float:
        ends = [c for c in checkpoints if int(c) <= 100]
        value = at(sampler, ends[-1]) if ends else None
        return math.inf if value is None else value[0] if single else value

    for sampler in sorted(samplers, key=last):
        of = samplers[sampler]
        cells = [sampler, of["setting"]]
        cells += [_cell(at(sampler, checkpoint), of["seeds"]) for checkpoint in checkpoints]
        tests = [below.get(c, {}).get(_OURS, {}).get(sampler) for c in checkpoints]
        cells.append(
            ", ".join("–" if p is None else f"{p:g}" for p in tests) if any(tests) else ""
        )
        cells += [f"{100 * of['crash share']:.0f} %", str(of["seeds"])]
        cells.append(f"{of['ms a trial, ask and tell']:.0f}")
        lines.append(_row(cells))
    if single:
        for target, reached in figures.get("trials to reach", {}).items():
            told = ", ".join(f"{s} {n or 'not reached'}" for s, n in reached.items())
            lines += ["", f"Trials until the mean is at that of {target}, no later: {told}."]
    else:
        names = sorted(samplers, key=last)
        lines += ["", *_head(["task, mean after 100 trials", *names])]
        for name, by_sampler in means.items():
            cells = [_cell(by_sampler.get(s, {}).get("100"), 0) for s in names]
            lines.append(_row([name, *cells]))
    return "\n".join(lines)


def settings_table(chosen: Mapping[str, Any]) -> str:
    """Return what the settings of a suite's rivals were chosen by: an entry of `chosen.json`."""
    lines = _head(["sampler", "setting: score on the selection seeds, lower is better", "seeds"])
    for sampler, choice in chosen.items():
        scores = [
            f"**{setting}: {score:+.2f}**"
            if setting == choice["setting"]
            else f"{setting}: {score:+.2f}"
            for setting, score in choice["scores"].items()
        ]
        if len(scores) > 1:
            lines.append(_row([sampler, ", ".join(scores), str(len(choice["seeds"]))]))
    return "\n".join(lines)


def published_table(figures: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """Return replayed studies beside the published runs that replay was fitted to.

    Args:
        figures: What :func:`~benchmarks.samplers.report.summary` returned of replay.
        published: The entry of that name in `fit.json`.
    """
    lines = _head(["best value, noise included", *map(str, CHECKPOINTS), "crashes"])
    (means,) = figures["mean of the best observed, noise included"].values()
    for method, samplers in (
        ("Random", ("random",)),
        ("TPE", ("tpe", "tpe-univariate")),
        ("CMA-ES", ("cmaes",)),
    ):
        runs = published[method]["runs"]
        cells = [
            f"{sum(column) / len(column):.4f} ({min(column):.4f} – {max(column):.4f})"
            for column in zip(*runs, strict=True)
        ]
        share = published[method]["crash share of the first 300"]
        label = f"{method}, published ({len(runs)} runs, lowest to highest)"
        lines.append(_row([label, *cells, f"{100 * share:.0f} %"]))
        for sampler in samplers:
            if sampler not in means:
                continue
            of = figures["samplers"][sampler]
            cells = [_cell(means[sampler].get(str(c)), of["seeds"]) for c in CHECKPOINTS]
            share = of["crash share"]
            lines.append(_row([f"{sampler}, replay", *cells, f"{100 * share:.0f} %"]))
    return "\n".join(lines)


def loss_table(workers: Mapping[str, Any], losses: Mapping[str, Any]) -> str:
    """Return what several workers reach, and what they lose against one.

    Args:
        workers: Number of workers → what :func:`~benchmarks.samplers.report.summary` returned.
        losses: Number of workers → what :func:`~benchmarks.samplers.report.parallel_loss`
            returned.
    """
    marks = list(map(str, CHECKPOINTS))
    heads = ["workers", "sampler", *marks, *(f"loss at {mark}" for mark in marks)]
    lines = _head([*heads, "crashes"])
    for number, of_sampler in losses.items():
        (means,) = workers[number]["mean"].values()
        for sampler, loss in of_sampler.items():
            cells = [f"{means[sampler][c][0]:.4f}" if c in means[sampler] else "" for c in marks]
            cells += ["{:+.4f} ± {:.4f}".format(*loss[c]) if c in loss else "" for c in marks]
            share = workers[number]["samplers"][sampler]["crash share"]
            lines.append(_row([number, sampler, *cells, f"{100 * share:.0f} %"]))
    return "\n".join(lines)


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: float | list[float] | None, usual: int) -> str:
    """Return a rank, or a mean and its half width to two of its digits.

    With how many studies it is of, where they are fewer than `usual`.
    """
    if value is None:
        return ""
    if not isinstance(value, list):
        return f"{value:.2f}"
    mean, half, studies = value
    known = half > 0.0 and math.isfinite(half)
    digits = min(max(1 - math.floor(math.log10(half)), 0), 8) if known else 4
    text = f"{mean:.{digits}f} ± {half:.{digits}f}"
    return text if studies >= usual else f"{text} ({studies:.0f} seeds)"
