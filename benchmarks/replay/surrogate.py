"""The autoresearch task: its search space, its snapping rules, and what a trial would have scored.

Fitted to the published trials of Ferreira et al., "Can LLMs Beat Classical Hyperparameter
Optimization Algorithms? A Study on autoresearch" (arXiv 2603.24647, repository
ferreirafabio/autoresearch-automl, MIT licence): one H200, 300 s of training a trial.
`fit.py` makes `surrogate.npz`; `fit.json` says how well it predicts runs that it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

from benchmarks.replay.forest import Forest


__all__ = [
    "DEFAULT",
    "FAILURE_BPB",
    "FIT_FILE",
    "FLOOR_OF_GAP",
    "PATTERNS",
    "SPACE",
    "SURROGATE_FILE",
    "Noise",
    "Prediction",
    "Surrogate",
    "as_rows",
    "features",
    "load_surrogate",
    "snap_rows",
    "snapped",
]

FAILURE_BPB = 8.0
# The regressors predict log(val_bpb - FLOOR_OF_GAP); the lowest value ever measured is .97409.
FLOOR_OF_GAP = 0.96
SURROGATE_FILE = Path(__file__).with_name("surrogate.npz")
FIT_FILE = Path(__file__).with_name("fit.json")

PATTERNS = ("SSSL", "SSLL", "SLSL", "LLLL", "SSSS", "LSSL")

SPACE: dict[str, BaseDistribution] = {
    "DEPTH": IntDistribution(4, 24),
    "ASPECT_RATIO": IntDistribution(32, 128),
    "HEAD_DIM": IntDistribution(64, 256, log=True),
    "DEVICE_BATCH_SIZE": IntDistribution(32, 256, log=True),
    "TOTAL_BATCH_SIZE": IntDistribution(65536, 2097152, log=True),
    "EMBEDDING_LR": FloatDistribution(0.01, 2.0, log=True),
    "UNEMBEDDING_LR": FloatDistribution(0.0005, 0.05, log=True),
    "MATRIX_LR": FloatDistribution(0.005, 0.2, log=True),
    "SCALAR_LR": FloatDistribution(0.05, 2.0, log=True),
    "WEIGHT_DECAY": FloatDistribution(0.0, 0.5),
    "WARMUP_RATIO": FloatDistribution(0.0, 0.3),
    "WARMDOWN_RATIO": FloatDistribution(0.1, 0.8),
    "FINAL_LR_FRAC": FloatDistribution(0.0, 0.2),
    "WINDOW_PATTERN": CategoricalDistribution(PATTERNS),
}

DEFAULT: dict[str, Any] = {
    "DEPTH": 8,
    "ASPECT_RATIO": 64,
    "HEAD_DIM": 128,
    "DEVICE_BATCH_SIZE": 128,
    "TOTAL_BATCH_SIZE": 524288,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "MATRIX_LR": 0.04,
    "SCALAR_LR": 0.5,
    "WEIGHT_DECAY": 0.2,
    "WARMUP_RATIO": 0.0,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
    "WINDOW_PATTERN": "SSSL",
}

_COLUMN = {name: index for index, name in enumerate(SPACE)}
_SEQ_LEN = 2048
_VOCAB_SIZE = 8192


def as_rows(configurations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return configurations as rows (n, 14) in the order of `SPACE`, the pattern as its index."""
    return np.array(
        [
            [
                PATTERNS.index(c[name]) if name == "WINDOW_PATTERN" else float(c[name])
                for name in SPACE
            ]
            for c in configurations
        ]
    )


def snap_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows (n, 14) as the study ran them.

    Head size and batch sizes become the nearest power of two (in the logarithm), and the total
    batch is at least one step of the device batch, DEVICE_BATCH_SIZE x 2048 tokens.
    """
    rows = rows.copy()
    powers = [_COLUMN[n] for n in ("HEAD_DIM", "DEVICE_BATCH_SIZE", "TOTAL_BATCH_SIZE")]
    rows[:, powers] = 2.0 ** np.round(np.log2(rows[:, powers]))
    total, device = _COLUMN["TOTAL_BATCH_SIZE"], _COLUMN["DEVICE_BATCH_SIZE"]
    rows[:, total] = np.maximum(rows[:, total], rows[:, device] * _SEQ_LEN)
    return rows


def snapped(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return one configuration as the study would have run it."""
    row = snap_rows(as_rows([configuration]))[0]
    return {
        name: int(row[_COLUMN[name]]) if isinstance(distribution, IntDistribution) else value
        for (name, distribution), value in zip(
            SPACE.items(), (configuration[name] for name in SPACE), strict=True
        )
    }


def features(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the trees see of snapped rows (n, 14): (n, 18).

    The knobs, and what follows from them for size, memory and attention: log parameters, log
    width, log activations, share of layers with full attention.
    """
    depth, aspect, head, device = (
        rows[:, _COLUMN[n]] for n in ("DEPTH", "ASPECT_RATIO", "HEAD_DIM", "DEVICE_BATCH_SIZE")
    )
    width = np.ceil(depth * aspect / head) * head
    # Blocks; embedding and head; value embeddings on every second layer.
    parameters = 12 * depth * width**2 + (2 + np.ceil(depth / 2)) * _VOCAB_SIZE * width
    # The pattern repeats over the layers, and the last layer is always full.
    full = np.empty(len(rows))
    for i, (layers, pattern) in enumerate(zip(depth, rows[:, -1], strict=True)):
        long = [letter == "L" for letter in PATTERNS[int(pattern)]]
        full[i] = (1 + sum(long[k % len(long)] for k in range(int(layers) - 1))) / layers
    derived = [np.log(parameters), np.log(width), np.log(device * width * depth), full]
    return np.column_stack([rows, *derived])


@dataclass(frozen=True)
class Prediction:
    """What the surrogate says of n configurations, without noise.

    Attributes:
        val_bpb: (n,) bits per byte; of a crash it is what it would have scored otherwise.
        ran: (n,) bool, False for a crash (nearly always out of memory).
        seconds: (n,) training seconds.
    """

    val_bpb: NDArray[np.float64]
    ran: NDArray[np.bool_]
    seconds: NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Repeat noise as measured: differences between repeats, drawn again with a random sign.

    Attributes:
        edges: (b - 1,) val_bpb between the bands in which repeats scatter alike.
        sizes: (b, q) evenly spaced quantiles of the size per band, in bits per byte.
    """

    edges: NDArray[np.float64]
    sizes: NDArray[np.float64]

    def draw(self, val_bpb: float, rng: np.random.Generator) -> float:
        """Return the error of one measurement of a configuration that scores `val_bpb`."""
        level, sign = rng.random(), rng.choice([-1.0, 1.0])
        sizes = self.sizes[np.searchsorted(self.edges, val_bpb, side="right")]
        return float(sign * np.interp(level, np.linspace(0, 1, len(sizes)), sizes))


@dataclass(frozen=True)
class Surrogate:
    """Trees for crash, value and seconds.

    Attributes:
        edges: Per feature the values between neighbouring codes, at most 254, ascending.
        gap: Predicts log(val_bpb - .96).
        crash: Predicts the log odds of a crash.
        crash_seconds: Predicts the log of the seconds until a crash.
        full_seconds: Training seconds of a trial that does not crash.
        noise: Of repeats on one machine.
    """

    edges: tuple[NDArray[np.float64], ...]
    gap: Forest
    crash: Forest
    crash_seconds: Forest
    full_seconds: float
    noise: Noise

    def predict(self, rows: NDArray[np.float64]) -> Prediction:
        """Predict rows (n, 14) in the order of `SPACE`; they are snapped first."""
        codes = encode(features(snap_rows(rows)), self.edges)
        ran = self.crash.predict(codes) <= 0
        seconds = np.exp(self.crash_seconds.predict(codes))
        return Prediction(
            val_bpb=FLOOR_OF_GAP + np.exp(self.gap.predict(codes)),
            ran=ran,
            seconds=np.where(ran, self.full_seconds, seconds),
        )

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path,
            allow_pickle=False,
            edges=np.concatenate(self.edges),
            edge_counts=np.array([len(e) for e in self.edges], np.int32),
            full_seconds=np.array(self.full_seconds),
            noise_edges=self.noise.edges,
            noise_sizes=self.noise.sizes,
            **self.gap.arrays("gap"),
            **self.crash.arrays("crash"),
            **self.crash_seconds.arrays("crash_seconds"),
        )


def encode(values: NDArray[np.float64], edges: Sequence[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Return features (n, f) as codes (n, f): how many edges lie at or below a value."""
    codes = [np.searchsorted(e, values[:, j], side="right") for j, e in enumerate(edges)]
    return np.column_stack(codes).astype(np.uint8)


@functools.cache
def load_surrogate(path: Path = SURROGATE_FILE) -> Surrogate:
    """Return the surrogate in a file; the shipped one by default."""
    with np.load(path, allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["edge_counts"])[:-1]
        return Surrogate(
            edges=tuple(np.split(arrays["edges"], ends)),
            gap=Forest.from_arrays(arrays, "gap"),
            crash=Forest.from_arrays(arrays, "crash"),
            crash_seconds=Forest.from_arrays(arrays, "crash_seconds"),
            full_seconds=float(arrays["full_seconds"]),
            noise=Noise(arrays["noise_edges"], arrays["noise_sizes"]),
        )
