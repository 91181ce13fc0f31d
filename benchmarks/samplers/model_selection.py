"""Model selection with scikit-learn (BSD-3-Clause) on the data sets that it ships.

Every study starts close to scikit-learn's defaults (kernel ridge: with an rbf kernel); scores are
cross-validated on fixed folds, so that the same configuration always scores the same.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import sklearn
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer
from sklearn.datasets import load_diabetes
from sklearn.datasets import load_digits
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import cross_val_score
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from benchmarks.samplers.task import Outcome
from benchmarks.samplers.task import Task


__all__ = ["model_selection"]


def model_selection(model: str) -> Task:
    """Return one of the tasks of this file by its name after ``sklearn/``."""
    load, rows, space, default, make, scoring = _MODELS[model]
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:rows]
    x, y = x[order], y[order]

    def evaluate(params: Mapping[str, Any], rng: np.random.Generator) -> Outcome:
        estimator = make_pipeline(StandardScaler(), make(params))
        scores = cross_val_score(estimator, x, y, scoring=scoring, cv=KFold(3))
        # A score is an accuracy or R², at best 1.
        value = 1 - float(np.mean(scores))
        return Outcome(value, value)

    return Task(
        name=f"sklearn/{model}",
        version=f"scikit-learn {sklearn.__version__}",
        space=space,
        evaluate=evaluate,
        default=default,
    )


# Name → data, rows used, space, defaults, estimator, score.
_MODELS: dict[
    str,
    tuple[
        Callable[..., Any],
        int,
        dict[str, BaseDistribution],
        dict[str, Any],
        Callable[[Mapping[str, Any]], BaseEstimator],
        str,
    ],
] = {
    "support-vectors-digits": (
        load_digits,
        450,
        {
            "C": FloatDistribution(1e-3, 1e3, log=True),
            "gamma": FloatDistribution(1e-5, 10, log=True),
            "kernel": CategoricalDistribution(["rbf", "poly", "sigmoid"]),
            "degree": IntDistribution(2, 5),
            "coef0": FloatDistribution(0, 1),
        },
        {"C": 1.0, "gamma": 1 / 64, "kernel": "rbf", "degree": 3, "coef0": 0.0},
        lambda p: SVC(**p),
        "accuracy",
    ),
    "tree-breast-cancer": (
        load_breast_cancer,
        569,
        {
            "max_depth": IntDistribution(1, 32),
            "min_samples_split": IntDistribution(2, 64, log=True),
            "min_samples_leaf": IntDistribution(1, 64, log=True),
            "max_features": FloatDistribution(0.05, 1.0),
            "ccp_alpha": FloatDistribution(1e-5, 0.1, log=True),
            "criterion": CategoricalDistribution(["gini", "entropy", "log_loss"]),
            "splitter": CategoricalDistribution(["best", "random"]),
        },
        {
            "max_depth": 32,
            "min_samples_split": 2,
            "min_samples_leaf": 1,
            "max_features": 1.0,
            "ccp_alpha": 1e-5,
            "criterion": "gini",
            "splitter": "best",
        },
        lambda p: DecisionTreeClassifier(random_state=0, **p),
        "accuracy",
    ),
    "kernel-ridge-diabetes": (
        load_diabetes,
        442,
        {
            "alpha": FloatDistribution(1e-4, 1e3, log=True),
            "gamma": FloatDistribution(1e-5, 10, log=True),
            "kernel": CategoricalDistribution(["rbf", "laplacian", "poly", "sigmoid"]),
            "degree": IntDistribution(1, 4),
            "coef0": FloatDistribution(0, 10),
        },
        {"alpha": 1.0, "gamma": 0.1, "kernel": "rbf", "degree": 3, "coef0": 1.0},
        lambda p: KernelRidge(**p),
        "r2",
    ),
    "neighbours-wine": (
        load_wine,
        178,
        {
            "components": IntDistribution(1, 13),
            "whiten": CategoricalDistribution([False, True]),
            "n_neighbors": IntDistribution(1, 60, log=True),
            "weights": CategoricalDistribution(["uniform", "distance"]),
            "metric": CategoricalDistribution(["euclidean", "manhattan", "chebyshev", "cosine"]),
        },
        {
            "components": 13,
            "whiten": False,
            "n_neighbors": 5,
            "weights": "uniform",
            "metric": "euclidean",
        },
        lambda p: make_pipeline(
            PCA(p["components"], whiten=p["whiten"], random_state=0),
            KNeighborsClassifier(p["n_neighbors"], weights=p["weights"], metric=p["metric"]),
        ),
        "accuracy",
    ),
}
