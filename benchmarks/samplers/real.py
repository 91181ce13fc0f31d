"""Samplers compared on real trainings: target/train.py on the cpu profile, verified scores.

    python -m benchmarks.samplers.real FOLDER --samplers arrl,tpe,cmaes-from-start --seeds 0-5

Studies of equal numbers of trials of equal budget, one database each, then every study's best
against the baseline on fresh seeds, in pairs. Everything finished is kept: the same command goes
on, trial by trial. A trial takes about 20 s, so this is hours; to be run alone on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from collections.abc import Mapping
from datetime import timedelta
import gzip
import json
import math
from pathlib import Path
from typing import Any
import zlib

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.distributions import json_to_distribution
from optuna.trial import TrialState

from benchmarks._arguments import at_least
from benchmarks._arguments import folder as folder_of
from benchmarks._arguments import one_of
from benchmarks._arguments import seeds as seeds_of
from benchmarks._records import append
from benchmarks._records import load
from benchmarks._records import mean_interval
from benchmarks.samplers.harness import chosen_setting
from benchmarks.samplers.report import draw_panels
from benchmarks.samplers.report import Panel
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.statistics import one_sided_wilcoxon
from optuna_arrl import best
from optuna_arrl import TrainScriptObjective
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import OUTCOME_KEY


# Trials of a study use the environment's seed 0.
_FIRST_FRESH_SEED = 1001
_TRIALS_FILE = "trials.jsonl.gz"
_MADE_BY_KEY = "benchmark:made_by"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=folder_of)
    parser.add_argument(
        "--samplers", type=one_of(*CONTENDERS), default="arrl,tpe,cmaes-from-start"
    )
    parser.add_argument("--seeds", type=seeds_of, default=range(6), help="such as 0-5 or 2,5")
    parser.add_argument("--trials", type=at_least(1), default=50, help="of each study")
    parser.add_argument("--reruns", type=at_least(1), default=5, help="pairs of each best")
    args = parser.parse_args()
    seeds, samplers = args.seeds, args.samplers
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        # Who is first changes, so that a drifting machine favours none.
        turn = number % len(samplers)
        for sampler in samplers[turn:] + samplers[:turn]:
            run_study(args.folder, sampler, seed, args.trials)
    records = args.folder / "reruns.jsonl"
    for seed in seeds:
        for sampler in samplers:
            rerun_best(args.folder, sampler, seed, args.reruns, records)
    result = report(args.folder, samplers, seeds, args.reruns)
    text = json.dumps(result, indent=1) + "\n"
    (args.folder / "report.json").write_text(text, encoding="utf-8")
    export(args.folder, samplers, seeds)
    draw(args.folder, samplers, seeds)
    print(text)


def run_study(folder: Path, sampler: str, seed: int, trials: int) -> None:
    """Bring a study to a number of completed trials; trial 0 is the baseline.

    One that has them is left as it is, whatever version made it: :func:`report` says which.

    Raises:
        SystemExit:
            When trials are missing, and another version or setting of the sampler has begun it or
            its database is not there.
    """
    study = _study(folder, sampler, seed)
    if len(_completed(study)) >= trials:
        return
    made_by = _version(sampler)
    if study.trials and _made_by(study) != made_by:
        raise SystemExit(
            f"Study {study.study_name} in {folder} was begun by {_made_by(study)}, which is not "
            f"this version ({made_by}): name another folder."
        )
    _refuse_without_database(folder, study)
    study.set_user_attr(_MADE_BY_KEY, made_by)
    objective = TrainScriptObjective(profile="cpu")
    try:
        objective.enqueue_baseline(study)
        if not _completed(study):
            # Its values are fixed; the search space is known only after it.
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
            study.optimize(objective, n_trials=1)
        study.sampler = _sampler(study, sampler, seed)
        while len(_completed(study)) < trials:
            study.optimize(objective, n_trials=1)
            print(
                f"{study.study_name}: {len(_completed(study))} of {trials} trials, "
                f"best {best(study).value:.4f}",
                flush=True,
            )
    finally:
        objective.close()


def rerun_best(folder: Path, sampler: str, seed: int, reruns: int, records: Path) -> None:
    """Measure a study's best and the baseline on fresh seeds, turn about."""
    study = _study(folder, sampler, seed)
    winner = best(study)
    for k in range(reruns):
        identity: dict[str, Any] = {
            "study": study.study_name,
            "trial": winner.number,
            "measured": winner.value,  # tells it from the same trial of another version's study
            "seed": _FIRST_FRESH_SEED + k,
        }
        if any(identity.items() <= record.items() for record in load(records)):
            continue
        _refuse_without_database(folder, study)
        objective = TrainScriptObjective(profile="cpu")
        try:
            objective.enqueue_baseline(study)  # refuses a study made under other conditions
            record = dict(identity)
            for which in ("baseline", "best") if k % 2 == 0 else ("best", "baseline"):
                params = winner.params if which == "best" else None
                measurement = objective.measure(params, seed=identity["seed"])
                # An edit that fails on another seed is no improvement.
                value = measurement.val_bpb
                record[which] = FAILURE_BPB if value is None else value
        finally:
            objective.close()
        append(records, record)
        print(record, flush=True)


def report(folder: Path, samplers: list[str], seeds: Iterable[int], reruns: int) -> dict[str, Any]:
    """Return the figures: studies are the units, and rivals are paired by seed.

    Each study has an interval over its own reruns beside; half widths of a single value are null.
    """
    records = load(folder / "reruns.jsonl")
    gains: dict[str, np.ndarray[Any, Any]] = {}
    result: dict[str, Any] = {"reruns of each best": reruns}
    for sampler in samplers:
        studies = [_study(folder, sampler, seed) for seed in seeds]
        differences, spreads = [], []
        for study in studies:
            winner = best(study)
            identity = {
                "study": study.study_name,
                "trial": winner.number,
                "measured": winner.value,
            }
            of_study = [
                r["best"] - r["baseline"] for r in records if identity.items() <= r.items()
            ][:reruns]
            mean, half = mean_interval(of_study)
            differences.append(mean)
            spreads.append(_rounded(half))
        gains[sampler] = np.array(differences)
        mean, half = mean_interval(differences)
        kept = [_completed(study) for study in studies]
        result[sampler] = {
            "made by": sorted({_made_by(study) for study in studies}),
            "trials, by study": [len(part) for part in kept],
            "best - baseline on fresh seeds, by study": np.round(differences, 5).tolist(),
            "95 % interval over reruns, half, by study": spreads,
            "mean": round(mean, 5),
            "95 % interval, half": _rounded(half),
            "p below the baseline": one_sided_wilcoxon(gains[sampler], np.zeros(len(studies))),
            "crash share": round(
                float(np.mean([t.values[0] >= FAILURE_BPB for part in kept for t in part])), 4
            ),
            "wall minutes a study": round(
                float(np.mean([sum(map(_seconds, part)) for part in kept])) / 60, 1
            ),
        }
    result["p that the first is below the second"] = {
        ours: {
            theirs: one_sided_wilcoxon(gains[ours], gains[theirs])
            for theirs in samplers
            if theirs != ours
        }
        for ours in samplers
    }
    return result


def _rounded(half: float) -> float | None:
    return round(half, 5) if math.isfinite(half) else None


def export(folder: Path, samplers: list[str], seeds: Iterable[int]) -> None:
    """Write the studies' trials to a file from which :func:`report` and all others can go on.

    ``trials.jsonl.gz`` holds a line a study, far smaller than its database. A study that has no
    database in the folder is taken from there.
    """
    kept = {
        line["study"]: line
        for line in map(_packed, (_study(folder, x, seed) for x in samplers for seed in seeds))
    }
    lines = (_kept(folder) | kept).values()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    packed = gzip.compress(text.encode(), mtime=0)  # the same file from the same trials
    (folder / _TRIALS_FILE).write_bytes(packed)


def draw(folder: Path, samplers: list[str], seeds: Iterable[int]) -> None:
    """Draw each sampler's mean best so far, from its study's baseline, in ``studies.png``."""
    tables = {}
    for sampler in samplers:
        values = [
            [trial.values[0] for trial in _completed(_study(folder, sampler, seed))]
            for seed in seeds
        ]
        shortest = min(map(len, values))
        table = np.minimum.accumulate([of_study[:shortest] for of_study in values], axis=1)
        tables[sampler] = table - table[:, :1]
    height = "best so far - baseline, val_bpb"
    panel = Panel(tables=tables, height=height, log_scale=False)
    draw_panels({"target/train.py, cpu profile": panel}, folder / "studies.png")


def _packed(study: optuna.Study) -> dict[str, Any]:
    trials = _completed(study)
    distributions = {k: d for trial in trials for k, d in trial.distributions.items()}
    return {
        "study": study.study_name,
        "made_by": study.user_attrs.get(_MADE_BY_KEY),
        "distributions": {k: distribution_to_json(d) for k, d in distributions.items()},
        "trials": [
            {
                "number": trial.number,
                "val_bpb": trial.values[0],
                "outcome": trial.user_attrs.get(OUTCOME_KEY),
                "seconds": round(_seconds(trial), 1),
                "params": trial.params,
            }
            for trial in trials
        ],
    }


def _kept(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _TRIALS_FILE
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines() if path.exists() else []
        return {line["study"]: line for line in map(json.loads, lines)}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
        raise SystemExit(
            f"{path} is not what this command writes: delete it, or name another folder."
        ) from error


def _unpacked(packed: Mapping[str, Any]) -> optuna.Study:
    """Return a study in memory that has a finished study's trials."""
    study = optuna.create_study(study_name=packed["study"])
    study.set_user_attr(_MADE_BY_KEY, packed.get("made_by"))
    distributions = {k: json_to_distribution(d) for k, d in packed["distributions"].items()}
    for kept in packed["trials"]:
        while len(study.trials) < kept["number"]:  # what the machine failed had a number too
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
        trial = optuna.trial.create_trial(
            value=kept["val_bpb"],
            params=kept["params"],
            distributions={name: distributions[name] for name in kept["params"]},
            user_attrs={} if kept["outcome"] is None else {OUTCOME_KEY: kept["outcome"]},
        )
        assert trial.datetime_start is not None
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=kept["seconds"])
        study.add_trial(trial)
    return study


def _version(sampler: str) -> str:
    """Return what made a study: how failures are coded has no say, the objective does that."""
    sigma0 = chosen_setting("replay", sampler).sigma0
    version = CONTENDERS[sampler].version()
    return version if sigma0 is None else f"{version}; sigma0={sigma0}"


def _made_by(study: optuna.Study) -> str:
    """Return the version that a study says it was begun by."""
    return study.user_attrs.get(_MADE_BY_KEY) or "an older version"


def _refuse_without_database(folder: Path, study: optuna.Study) -> None:
    """Refuse to measure for a study of which the trials alone are kept.

    What would be added to it would be lost, and under which conditions it ran is not known.

    Raises:
        SystemExit: When its database is not in the folder.
    """
    if not _database(folder, study.study_name).exists():
        raise SystemExit(
            f"Of study {study.study_name} {folder} has the trials but no database, so it can be "
            "reported but not gone on with: name another folder."
        )


def _database(folder: Path, name: str) -> Path:
    return folder.resolve() / f"{name}.db"


def _study(folder: Path, sampler: str, seed: int) -> optuna.Study:
    name = f"{sampler}-{seed}"
    if not _database(folder, name).exists() and (packed := _kept(folder).get(name)):
        return _unpacked(packed)
    return optuna.create_study(
        storage=f"sqlite:///{_database(folder, name)}",
        study_name=name,
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),  # the default would judge edits by training loss
    )


def _sampler(study: optuna.Study, name: str, seed: int) -> optuna.samplers.BaseSampler:
    baseline = _completed(study)[0]
    begun = len(study.get_trials(deepcopy=False))
    if name != "arrl" and begun > 1:
        # Optuna's samplers keep no random state in a study: with its first seed, one that goes
        # on would draw the study's first edits again.
        seed = int(np.random.SeedSequence([seed, begun]).generate_state(1)[0])
    setting = chosen_setting("replay", name)
    return CONTENDERS[name].make(baseline.distributions, baseline.params, seed, setting)


def _completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count: what the machine failed is run again."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _seconds(trial: optuna.trial.FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


if __name__ == "__main__":
    main()
