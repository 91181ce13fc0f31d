"""How far repeats of the unmodified script spread, for each way of setting the deadline.

The ways alternate, and the rounds are spread evenly over the time given, so that both meet one and
the same machine. `wall` is plain wall seconds; `scaled` multiplies them by how long a reference
workload took just before the trial, against its median over the readings so far. The seed is the
same throughout, as in a study: what differs is how many steps fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import statistics
import time

import _records

from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.objective.objective import TrainScriptObjective
from optuna_arrl.objective.runner import TrialRunner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--spread", type=float, default=3600.0, help="seconds from first to last")
    parser.add_argument("--budget", type=float, default=None, help="seconds")
    args = parser.parse_args()
    source = TrainScriptObjective().script.source
    prepared = prepare("cpu")
    records = _records.load(args.records)
    started = records[0]["at"] if records else time.time()
    for index in range(len(records), 2 * args.repeats):
        due = (index // 2) * args.spread / max(1, args.repeats - 1)
        time.sleep(max(0.0, started + due - time.time()))
        readings = [r["reference_seconds"] for r in records]
        way = ("wall", "scaled")[index % 2]
        reference = statistics.median(readings) if way == "scaled" else None
        runner = TrialRunner(prepared, budget_seconds=args.budget, reference_seconds=reference)
        measurement = runner.run(source)
        record = {
            "at": time.time(),
            "way": way,
            "val_bpb": measurement.val_bpb,
            "steps": measurement.steps,
            "train_seconds": measurement.seconds["train"],
            "reference_seconds": measurement.seconds["reference"],
        }
        records.append(record)
        _records.append(args.records, record)
        print(record, flush=True)
    for way in ("wall", "scaled"):
        scores = [r["val_bpb"] for r in records if r["way"] == way]
        steps = [r["steps"] for r in records if r["way"] == way]
        if len(scores) < 2:
            continue
        print(
            f"{way}: {len(scores)} runs, mean {statistics.mean(scores):.4f} bpb, "
            f"sd {statistics.stdev(scores):.4f}, range {min(scores):.4f}-{max(scores):.4f}, "
            f"steps {min(steps)}-{max(steps)}"
        )


if __name__ == "__main__":
    main()
