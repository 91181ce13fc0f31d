"""A study's best trial against its baseline: fresh seeds, interleaved pairs, verified scores.

For studies of the shipped target under its default profile and budget.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _records
import optuna

from optuna_arrl import best
from optuna_arrl import TrainScriptObjective


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--study", default=None, help="default: the only study in the storage")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1001, help="studies use seed 0")
    args = parser.parse_args()
    study = optuna.load_study(study_name=args.study, storage=args.storage)
    winner = best(study)
    objective = TrainScriptObjective()
    objective.enqueue_baseline(study)  # there already; refuses a study made under other conditions
    records = [r for r in _records.load(args.records) if r["trial"] == winner.number]
    for pair in range(len(records), args.pairs):
        seed = args.first_seed + pair
        # Which comes first alternates, so that a drifting machine favours neither.
        order = ("baseline", "best") if pair % 2 == 0 else ("best", "baseline")
        record: dict[str, float] = {"seed": seed, "trial": winner.number}
        for which in order:
            params = winner.params if which == "best" else None
            measurement = objective.measure(params, seed=seed)
            if measurement.val_bpb is None:
                raise SystemExit(f"{which} with seed {seed}: {measurement.reason}")
            record[which] = measurement.val_bpb
        records.append(record)
        _records.append(args.records, record)
        print(record, flush=True)
    differences = [r["best"] - r["baseline"] for r in records]
    mean, half = _records.mean_interval(differences)
    print(
        f"best (trial {winner.number}) - baseline over {len(records)} pairs: "
        f"{mean:+.4f} bpb, 95 % interval {mean - half:+.4f} to {mean + half:+.4f}"
    )


if __name__ == "__main__":
    main()
