"""Wall seconds of a study's trials by part, median over the trials that completed."""

from __future__ import annotations

import argparse
import statistics

import optuna

from optuna_arrl.trajectory import MEASUREMENT_KEY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--study", default=None, help="default: the only study in the storage")
    args = parser.parse_args()
    study = optuna.load_study(study_name=args.study, storage=args.storage)
    parts: dict[str, list[float]] = {}
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        measurement = trial.system_attrs.get(MEASUREMENT_KEY)
        if measurement is None or "probe" not in measurement["seconds"]:
            continue
        seconds = dict(measurement["seconds"])
        whole = trial.datetime_complete - trial.datetime_start
        seconds["trial"] = whole.total_seconds()
        seconds["beside the boxes"] = seconds["trial"] - seconds["total"]
        for part, value in seconds.items():
            parts.setdefault(part, []).append(value)
    if not parts:
        raise SystemExit(f"No completed trial carries {MEASUREMENT_KEY}.")
    for part, values in parts.items():
        print(
            f"{part:>18}  median {statistics.median(values):7.3f} s"
            f"  min {min(values):7.3f}  max {max(values):7.3f}  n {len(values)}"
        )


if __name__ == "__main__":
    main()
