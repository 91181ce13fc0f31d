"""How far repeats of the unmodified script spread, and so what a difference is worth.

The runs are spread evenly over the time given. The seed is the same throughout, as in a study:
what differs is how many steps fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import statistics
import time

import _records

from optuna_arrl import TrainScriptObjective


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--spread", type=float, default=3600.0, help="seconds from first to last")
    parser.add_argument("--budget", type=float, default=None, help="seconds")
    args = parser.parse_args()
    objective = TrainScriptObjective(budget_seconds=args.budget)
    records = _records.load(args.records)
    started = records[0]["at"] if records else time.time()
    for index in range(len(records), args.repeats):
        due = index * args.spread / max(1, args.repeats - 1)
        time.sleep(max(0.0, started + due - time.time()))
        measurement = objective.measure(seed=0)
        record = {
            "at": time.time(),
            "val_bpb": measurement.val_bpb,
            "steps": measurement.steps,
            "train_seconds": measurement.seconds["train"],
        }
        records.append(record)
        _records.append(args.records, record)
        print(record, flush=True)
    scores = [r["val_bpb"] for r in records]
    steps = [r["steps"] for r in records]
    print(
        f"{len(scores)} runs, mean {statistics.mean(scores):.4f} bpb, "
        f"sd {statistics.stdev(scores) if len(scores) > 1 else 0.0:.4f}, "
        f"range {min(scores):.4f}-{max(scores):.4f}, steps {min(steps)}-{max(steps)}"
    )


if __name__ == "__main__":
    main()
