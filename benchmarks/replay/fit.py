"""Fit the surrogate of the autoresearch task, and check it on runs that it has not seen.

    python -m benchmarks.replay.fit TRIALS.csv

writes `surrogate.npz` and `fit.json` beside this file. The table (arXiv 2603.24647; not committed)
has a row per trial: method, seed, trial, val_bpb, success, train_seconds, 14 hyperparameters.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pandas as pd
from scipy.stats import spearmanr
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from benchmarks.replay.forest import Forest
from benchmarks.replay.surrogate import as_rows
from benchmarks.replay.surrogate import DEFAULT
from benchmarks.replay.surrogate import encode
from benchmarks.replay.surrogate import features
from benchmarks.replay.surrogate import FIT_FILE
from benchmarks.replay.surrogate import FLOOR_OF_GAP
from benchmarks.replay.surrogate import Noise
from benchmarks.replay.surrogate import snap_rows
from benchmarks.replay.surrogate import SPACE
from benchmarks.replay.surrogate import Surrogate
from benchmarks.replay.surrogate import SURROGATE_FILE


_SOURCE = (
    "Ferreira, Wobbe, Krishnakumar, Hutter, Zela: Can LLMs Beat Classical Hyperparameter "
    "Optimization Algorithms? A Study on autoresearch. arXiv 2603.24647; "
    "repository ferreirafabio/autoresearch-automl, MIT licence"
)
_FOLDS = 6
_MEMBERS = 4
# A diverged run is no worse than this to the regressors: else they would fit the divergence.
_HIGHEST = 1.5
_CODES = 255
_GAP = dict(
    learning_rate=0.05,
    max_iter=300,
    max_leaf_nodes=31,
    min_samples_leaf=20,
    l2_regularization=1.0,
    max_features=0.5,
    early_stopping=False,
)
_CRASH = dict(learning_rate=0.1, max_iter=100, max_leaf_nodes=15, early_stopping=False)
_SECONDS = dict(learning_rate=0.1, max_iter=100, max_leaf_nodes=15, early_stopping=False)
# Bands of val_bpb in which repeats scatter alike.
_BANDS = np.array([0.98, 0.99, 1.0, 1.05])
_CHECKPOINTS = (25, 50, 100, 300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=Path, help="the table of published trials")
    args = parser.parse_args()
    table = pd.read_csv(args.trials)
    rows = snap_rows(as_rows(table[list(SPACE)].to_dict("records")))
    ran = table["success"].to_numpy() == 1
    target = np.log(np.minimum(table["val_bpb"].to_numpy(), _HIGHEST) - FLOOR_OF_GAP)
    seconds = table["train_seconds"].to_numpy()
    groups = (table["method"] + " " + table["seed"].astype(str)).to_numpy()
    edges = code_edges(features(rows))
    codes = encode(features(rows), edges)

    gap = np.full(len(table), np.nan)
    log_odds, log_seconds = gap.copy(), gap.copy()
    fold = np.zeros(len(table), int)
    splits = GroupKFold(_FOLDS).split(codes, groups=groups)
    for number, (train, test) in enumerate(splits):
        part = fit_forests(codes[train], ran[train], target[train], seconds[train])
        gap[test], log_odds[test], log_seconds[test] = (f.predict(codes[test]) for f in part)
        fold[test] = number

    surrogate = Surrogate(
        tuple(edges),
        *fit_forests(codes, ran, target, seconds),
        full_seconds=float(np.median(seconds[ran])),
        noise=measured_noise(table, ran),
    )
    surrogate.save(SURROGATE_FILE)
    default = surrogate.predict(as_rows([DEFAULT]))
    is_default = (rows == as_rows([DEFAULT])).all(1) & ran
    report = {
        "source": _SOURCE,
        "scikit-learn": sklearn.__version__,
        "trials": len(table),
        "runs": len(set(groups)),
        "crashed": int((~ran).sum()),
        "grouped cross-validation": {
            "groups": "run (method x seed)",
            "all": accuracy(table, ran, gap, log_odds, log_seconds, slice(None)),
            "random search": accuracy(
                table, ran, gap, log_odds, log_seconds, (table["method"] == "Random").to_numpy()
            ),
            "by fold": [
                accuracy(table, ran, gap, log_odds, log_seconds, fold == k) for k in range(_FOLDS)
            ],
        },
        "default": {
            "measured": round(float(table["val_bpb"][is_default].mean()), 6),
            "measurements": int(is_default.sum()),
            "surrogate": round(float(default.val_bpb[0]), 6),
        },
        "published curves": {
            "trials": _CHECKPOINTS,
            **{method: published(table, method) for method in ("Random", "TPE", "CMA-ES")},
        },
        "noise": {
            "bands": [float(b) for b in _BANDS],
            "1.4826 x median size": [
                float(f"{1.4826 * np.median(s):.3g}") for s in surrogate.noise.sizes
            ],
            "largest size": [float(f"{s.max():.3g}") for s in surrogate.noise.sizes],
        },
    }
    FIT_FILE.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def code_edges(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return per feature what lies between its codes: every value its own code, or quantiles."""
    edges = []
    for column in values.T:
        distinct = np.unique(column)
        between = (distinct[1:] + distinct[:-1]) / 2
        if len(between) >= _CODES:
            between = np.unique(np.quantile(column, np.linspace(0, 1, _CODES + 1)[1:-1]))
        edges.append(between)
    return edges


def fit_forests(
    codes: NDArray[np.uint8],
    ran: NDArray[np.bool_],
    target: NDArray[np.float64],
    seconds: NDArray[np.float64],
) -> tuple[Forest, Forest, Forest]:
    """Fit log gap (over trials that ran), log odds of a crash, log seconds (over crashes)."""
    gap = [
        HistGradientBoostingRegressor(random_state=member, **_GAP).fit(codes[ran], target[ran])
        for member in range(_MEMBERS)
    ]
    crash = HistGradientBoostingClassifier(random_state=0, **_CRASH).fit(codes, ~ran)
    # The median of the logarithm: eight of 3,714 crashes took minutes.
    late = HistGradientBoostingRegressor(random_state=0, loss="absolute_error", **_SECONDS)
    late.fit(codes[~ran], np.log(seconds[~ran]))
    return Forest.from_models(gap), Forest.from_models([crash]), Forest.from_models([late])


def accuracy(
    table: pd.DataFrame,
    ran: NDArray[np.bool_],
    gap: NDArray[np.float64],
    log_odds: NDArray[np.float64],
    log_seconds: NDArray[np.float64],
    part: Any,
) -> dict[str, float]:
    """Return how well a part of the trials was predicted by models that had not seen its runs."""
    inside = np.zeros(len(table), bool)
    inside[part] = True
    scored, crashed = inside & ran, inside & ~ran
    truth = table["val_bpb"].to_numpy()[scored]
    predicted = FLOOR_OF_GAP + np.exp(gap[scored])
    low = truth < 1.0
    clip = 1.3  # a handful of diverged runs would decide R2 and error
    result = {
        "trials": int(inside.sum()),
        "crash AUC": roc_auc_score(~ran[inside], log_odds[inside]) if crashed.any() else np.nan,
        "crash accuracy": ((log_odds > 0) == ~ran)[inside].mean(),
        "R2": r2_score(np.minimum(truth, clip), np.minimum(predicted, clip)),
        "Spearman": spearmanr(truth, predicted)[0],
        "mean absolute error": np.abs(
            np.minimum(truth, clip) - np.minimum(predicted, clip)
        ).mean(),
        "Spearman below 1.0": spearmanr(truth[low], predicted[low])[0],
        "mean absolute error below 1.0": np.abs(truth - predicted)[low].mean(),
        "crash seconds, median relative error": np.median(
            np.abs(np.expm1(log_seconds[crashed] - np.log(table["train_seconds"][crashed])))
        ),
    }
    return {name: round(float(value), 5) for name, value in result.items()}


def published(table: pd.DataFrame, method: str) -> dict[str, Any]:
    """Return the best measured value so far of a method's runs: what replay is to reproduce."""
    runs = [
        run.sort_values("trial") for _, run in table[table["method"] == method].groupby("seed")
    ]
    measured = [run["val_bpb"].where(run["success"] == 1).cummin().ffill() for run in runs]
    return {
        "runs": [[round(float(m.iloc[k - 1]), 6) for k in _CHECKPOINTS] for m in measured],
        "crash share of the first 300": round(
            float(np.mean([1 - run["success"].iloc[:300].mean() for run in runs])), 4
        ),
    }


def measured_noise(table: pd.DataFrame, ran: NDArray[np.bool_]) -> Noise:
    """Measure repeat noise from configurations that one run tried more than once.

    Differences of successive repeats, divided by the square root of 2: unlike deviations from a
    group's mean or median they do not shrink in groups of two. The largest 2 % are left out:
    they are runs that a machine slowed down (up to .3 bits per byte), and never luck.
    """
    columns = ["method", "seed", *SPACE]
    sizes: list[list[float]] = [[] for _ in range(len(_BANDS) + 1)]
    for _, values in table[ran].groupby(columns, sort=False)["val_bpb"]:
        v = values.to_numpy()
        pairs = v[: len(v) // 2 * 2].reshape(-1, 2)
        band = np.searchsorted(_BANDS, np.median(v), side="right")
        sizes[band] += list(np.abs(pairs[:, 0] - pairs[:, 1]) / np.sqrt(2))
    levels = np.linspace(0, 0.98, 99)
    return Noise(_BANDS, np.array([np.quantile(s, levels) for s in sizes]))


if __name__ == "__main__":
    main()
