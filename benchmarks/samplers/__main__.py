"""Compare samplers.

python -m benchmarks.samplers run SUITE RECORDS --samplers tpe,random --seeds 0-19
python -m benchmarks.samplers choose SUITE RECORDS
python -m benchmarks.samplers report SUITE,SUITE RECORDS OUT
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import gzip
import json
import os
from pathlib import Path
from typing import Any
import zlib


# Before anything imports numpy or torch: studies run beside each other, one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks._arguments import at_least
from benchmarks._arguments import file
from benchmarks._arguments import growing_file
from benchmarks._arguments import one_of
from benchmarks._arguments import seeds
from benchmarks._records import load
from benchmarks.replay.surrogate import FIT_FILE
from benchmarks.samplers import harness
from benchmarks.samplers import report
from benchmarks.samplers import tables
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.study import incumbents
from benchmarks.samplers.suites import SUITES


# Settings are chosen on these, and judged on seeds below.
SELECTION_SEEDS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run studies that RECORDS does not hold yet")
    run.add_argument("suite", choices=SUITES)
    run.add_argument("records", type=growing_file)
    run.add_argument(
        "--samplers", type=one_of(*CONTENDERS), required=True, help=f"of {','.join(CONTENDERS)}"
    )
    run.add_argument("--seeds", type=seeds, default=range(20), help="such as 0-19 or 3,5")
    run.add_argument("--trials", type=at_least(1), default=300)
    run.add_argument("--workers", type=at_least(1), default=1, help="simulated, per study")
    run.add_argument("--jobs", type=at_least(1), default=1, help="processes, a study each")
    run.add_argument(
        "--settings",
        choices=("chosen", "all"),
        default="chosen",
        help=f"all: to choose from, on seeds from {SELECTION_SEEDS}",
    )
    choose = commands.add_parser("choose", help="write the best setting of each sampler down")
    choose.add_argument("suite", choices=SUITES)
    choose.add_argument("records", type=file)
    show = commands.add_parser(
        "report",
        help="print tables; write OUT.json, OUT.png, of studies with several workers "
        "OUT.workers.png, and OUT.curves.json.gz: the studies that all these come from, those "
        "of earlier reports included",
    )
    show.add_argument(
        "suites", type=one_of(*SUITES), help=f"of {','.join(SUITES)}: one table of all"
    )
    show.add_argument("records", type=file)
    show.add_argument("out", type=Path, help="such as benchmarks/results/replay")
    args = parser.parse_args()
    try:
        if args.command == "run":
            _run(args)
        elif args.command == "choose":
            _choose(args.suite, args.records)
        else:
            _report(args.suites, args.records, args.out)
    except harness.NotChosen as error:
        raise SystemExit(str(error)) from error


def _run(args: argparse.Namespace) -> None:
    if args.settings == "all" and min(args.seeds) < SELECTION_SEEDS:
        raise SystemExit(
            f"Settings are chosen on seeds from {SELECTION_SEEDS}: name such, as in "
            f"--seeds {SELECTION_SEEDS}-{SELECTION_SEEDS + 9}."
        )
    todo = harness.plans(
        args.suite,
        args.samplers,
        args.seeds,
        args.trials,
        workers=args.workers,
        all_settings=args.settings == "all",
    )
    for record in harness.run(todo, args.records, jobs=args.jobs):
        print(
            f"{record['task']} {record['sampler']} ({record['setting']}) seed {record['seed']} "
            f"workers {record['workers']}: {incumbents(record)[-1]:.6g} after "
            f"{len(record['truth'])} trials, {record['ask_seconds'] + record['tell_seconds']} s",
            flush=True,
        )


def _choose(suite: str, path: Path) -> None:
    records = [
        record
        for record in _of_suite(suite, path)
        if record["seed"] >= SELECTION_SEEDS and record["workers"] == 1
    ]
    if not records:
        raise SystemExit(
            f"{path} holds no study of {suite} on seeds from {SELECTION_SEEDS}: "
            "`run --settings all` first."
        )
    there = {tuple(r[name] for name in ("sampler", "task", "setting", "seed")) for r in records}
    for sampler, name, seed in sorted({(r["sampler"], r["task"], r["seed"]) for r in records}):
        for setting in harness.settings_of(sampler, name):
            if (sampler, name, str(setting), seed) not in there:
                raise SystemExit(
                    f"{path} lacks {sampler} ({setting}) on {name}, seed {seed}: bring "
                    "`run --settings all` to its end first."
                )
    chosen_file = harness.CHOSEN_FILE
    known = json.loads(chosen_file.read_text(encoding="utf-8")) if chosen_file.exists() else {}
    try:
        choices = report.best_settings(records)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    known[suite] = known.get(suite, {}) | choices
    chosen_file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    for sampler, choice in choices.items():
        print(f"{sampler}: {choice['setting']}  (scores {choice['scores']})")


def _report(suites: list[str], path: Path, out: Path) -> None:
    chosen = [
        report.compact(record)
        for suite in suites
        for record in _of_suite(suite, path)
        if record["seed"] < SELECTION_SEEDS
        and record["setting"] == str(harness.chosen_setting(suite, record["sampler"]))
    ]
    curves_file = _beside(out, ".curves.json.gz")
    studies = _kept(curves_file)
    for study in chosen:
        other = studies.get(_identity(study))
        if (
            other is None
            or not harness.is_current(other)
            or len(other["incumbent"]) <= len(study["incumbent"])
        ):
            studies[_identity(study)] = study
    asked = [
        (suite, study)
        for suite in suites
        for study in studies.values()
        if study["task"] in SUITES[suite]
    ]
    records = [
        study
        for suite, study in asked
        if harness.is_current(study)
        and study["setting"] == str(harness.chosen_setting(suite, study["sampler"]))
    ]
    if not records:
        raise SystemExit(
            f"Neither {path} nor {curves_file} holds a study of {', '.join(suites)} to report: "
            "`run` first."
        )
    run = set(map(id, chosen))
    if earlier := sum(id(study) not in run for study in records):
        print(f"{earlier} studies are those that {curves_file} kept.")
    if stale := len(asked) - len(records):
        print(f"{stale} that it keeps are of other versions or settings, and left out.")
    workers = sorted({record["workers"] for record in records})
    by_workers = {w: [r for r in records if r["workers"] == w] for w in workers}
    result: dict[str, Any] = {
        "suites": suites,
        "versions": sorted({record["version"] for record in records}),
        "workers": {str(w): report.summary(part) for w, part in by_workers.items()},
    }
    if len({record["task"] for record in records}) == 1 and 1 in workers:
        result["loss against one worker"] = {
            str(w): report.parallel_loss(by_workers[1], part)
            for w, part in by_workers.items()
            if w > 1
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    _beside(out, ".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part = _beside(out, ".part")
    part.write_bytes(gzip.compress(json.dumps(list(studies.values())).encode(), mtime=0))
    part.replace(curves_file)
    report.draw_panels(report.panels(by_workers[workers[0]]), _beside(out, ".png"))
    if len(workers) > 1:
        beside = {
            f"{title}, {w} worker{'s' * (w != 1)}": panel
            for w, part in by_workers.items()
            for title, panel in report.panels(part).items()
        }
        report.draw_panels(beside, _beside(out, ".workers.png"))
    for number, figures in result["workers"].items():
        print(f"{number} worker{'s' * (number != '1')}:\n\n{tables.sampler_table(figures)}\n")
    if result.get("loss against one worker"):
        losses = result["loss against one worker"]
        print(f"Several workers:\n\n{tables.loss_table(result['workers'], losses)}\n")
    chosen = json.loads(harness.CHOSEN_FILE.read_text(encoding="utf-8"))
    for suite in suites:
        if suite in chosen:
            print(f"Settings on {suite}:\n\n{tables.settings_table(chosen[suite])}\n")
    if suites == ["replay"] and "1" in result["workers"]:
        fitted = json.loads(FIT_FILE.read_text(encoding="utf-8"))["published curves"]
        table = tables.published_table(result["workers"]["1"], fitted)
        print(f"Beside the published runs:\n\n{table}")


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(out.name + ending)


def _identity(study: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a study from all others but those of other versions."""
    names = ("task", "sampler", "setting", "seed", "workers")
    return tuple(study[name] for name in names)


def _kept(curves_file: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the studies that earlier reports wrote to a file, of any suite and version.

    Raises:
        SystemExit: When it is not such a file.
    """
    if not curves_file.exists():
        return {}
    try:
        studies = json.loads(gzip.decompress(curves_file.read_bytes()))
        for study in studies:
            study["version"], study["incumbent"]
        return {_identity(study): study for study in studies}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
        raise SystemExit(
            f"{curves_file} is not what `report` writes: delete it, or name another OUT."
        ) from error


def _of_suite(suite: str, path: Path) -> list[dict[str, Any]]:
    """Return the records of a suite that today's code would give again."""
    there = [record for record in load(path) if record["task"] in SUITES[suite]]
    usable = harness.current(there)
    if len(usable) < len(there):
        print(f"{len(there) - len(usable)} records are superseded and left out.")
    return usable


if __name__ == "__main__":
    main()
