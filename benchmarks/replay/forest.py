"""Gradient-boosted trees as four plain arrays, evaluated by a few lines of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


__all__ = ["Forest"]

# Points that are evaluated at once: 1,200 trees hold as many indices each.
_CHUNK = 1024


@dataclass(frozen=True)
class Forest:
    """The sum of regression trees over features coded as 0 … 255, in a layout without branches.

    A node sends a point to child `left` when its code is at most `threshold`, else to `left + 1`.
    A leaf has threshold 255 and is its own left child, so that a walk may go on at a leaf.

    Attributes:
        roots: (T,) int32, index of each tree's root.
        feature: (M,) uint8, the feature that a node asks for.
        threshold: (M,) uint8.
        left: (M,) int32.
        value: (M,) float32, what a leaf adds; 0 elsewhere.
        baseline: What is added to the sum.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.uint8]
    threshold: NDArray[np.uint8]
    left: NDArray[np.int32]
    value: NDArray[np.float32]
    baseline: float

    def predict(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the sum of baseline and leaves.

        Args:
            codes: (n, features) uint8.

        Returns:
            (n,) float64.
        """
        out = np.empty(len(codes))
        for start in range(0, len(codes), _CHUNK):
            part = codes[start : start + _CHUNK]
            row = np.arange(len(part))[:, None]
            node = np.broadcast_to(self.roots, (len(part), len(self.roots)))
            while True:
                child = self.left[node] + (part[row, self.feature[node]] > self.threshold[node])
                if np.array_equal(child, node):
                    break
                node = child
            out[start : start + _CHUNK] = self.baseline + self.value[node].sum(1, dtype=float)
        return out

    @classmethod
    def from_models(cls, models: Sequence[Any]) -> Forest:
        """Return the mean of histogram gradient-boosting models of scikit-learn.

        They have to be fitted to codes 0 … 254. Their trees are in a private attribute; that it
        still means what it meant is checked against the library's own predictions by a test.

        Args:
            models: Fitted, each with one output: regressors or two-class classifiers.
        """
        roots: list[int] = []
        columns: list[tuple[int, int, int, float]] = []
        for model in models:
            for (predictor,) in model._predictors:
                nodes = predictor.nodes
                roots.append(len(columns))
                columns.append((0, 255, len(columns), 0.0))
                todo = [(0, len(columns) - 1)]  # (theirs, ours)
                while todo:
                    theirs, ours = todo.pop()
                    node = nodes[theirs]
                    if node["is_leaf"]:
                        columns[ours] = (0, 255, ours, float(node["value"]) / len(models))
                        continue
                    left = len(columns)
                    columns += [(0, 255, left, 0.0), (0, 255, left + 1, 0.0)]
                    threshold = int(np.floor(node["num_threshold"]))
                    columns[ours] = (int(node["feature_idx"]), threshold, left, 0.0)
                    todo += [(int(node["left"]), left), (int(node["right"]), left + 1)]
        features, thresholds, lefts, values = zip(*columns, strict=True)
        return cls(
            roots=np.array(roots, np.int32),
            feature=np.array(features, np.uint8),
            threshold=np.array(thresholds, np.uint8),
            left=np.array(lefts, np.int32),
            value=np.array(values, np.float32),
            baseline=float(np.mean([np.ravel(m._baseline_prediction)[0] for m in models])),
        )

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays under names for one npz file."""
        return {
            f"{prefix}_roots": self.roots,
            f"{prefix}_feature": self.feature,
            f"{prefix}_threshold": self.threshold,
            f"{prefix}_left": self.left,
            f"{prefix}_value": self.value,
            f"{prefix}_baseline": np.array(self.baseline),
        }

    @classmethod
    def from_arrays(cls, arrays: Any, prefix: str) -> Forest:
        """Return the forest that :meth:`arrays` gave."""
        return cls(
            roots=arrays[f"{prefix}_roots"],
            feature=arrays[f"{prefix}_feature"],
            threshold=arrays[f"{prefix}_threshold"],
            left=arrays[f"{prefix}_left"],
            value=arrays[f"{prefix}_value"],
            baseline=float(arrays[f"{prefix}_baseline"]),
        )
