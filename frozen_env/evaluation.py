"""The evaluation protocol: windows, softmax, bytes, probe positions. Runs outside every box.

bits per byte = Σ -log2 p(x_i | x_<i) / Σ bytes(x_i), over validation targets that have bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from .prepare import Prepared
from .tokenizer import Tokenizer


__all__ = [
    "Probe",
    "Windows",
    "bits_per_byte",
    "draw_probe",
    "token_nats",
    "validation_windows",
]

_PROBE_FLOOR = 0.02


@dataclass(frozen=True)
class Windows:
    """Disjoint windows of the validation text.

    Attributes:
        inputs: (N, T) int32 token ids shown to the model; none is a target of another window.
        targets: (N, T) int32 token ids it is scored on, one later.
        target_bytes: (N, T) int32 bytes of each target; 0 for the separator, which is not scored.
    """

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    target_bytes: NDArray[np.int32]


@dataclass(frozen=True)
class Probe:
    """Positions at which a truncated prefix is scored again.

    Attributes:
        window: (K,) int index of the window.
        position: (K,) int index of the target in it; the prefix is ``inputs[: position + 1]``.
        weight: (K,) float64 inverse-probability weights, summing to 1.
    """

    window: NDArray[np.int64]
    position: NDArray[np.int64]
    weight: NDArray[np.float64]


def validation_windows(prepared: Prepared) -> Windows:
    """At most ``profile.eval_tokens`` tokens, in windows spread evenly over the text."""
    profile = prepared.profile
    tokens = np.fromfile(prepared.private / "val.bin", dtype=np.uint16).astype(np.int32)
    length = min(profile.seq_len, len(tokens) - 1)
    # Windows stand a token apart: no window shows the last target of another.
    stride = length + 1
    available = len(tokens) // stride
    count = max(1, min(available, profile.eval_tokens // length))
    starts = np.linspace(0, available - 1, count).round().astype(np.int64) * stride
    index = starts[:, None] + np.arange(length)
    targets = tokens[index + 1]
    token_bytes = Tokenizer.load(prepared.folder / "tokenizer.json").token_bytes
    return Windows(tokens[index], targets, token_bytes[targets])


def token_nats(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """-log softmax(logits)[target], in nats.

    Args:
        logits: (..., V), any scale or shift: the softmax is ours.
        targets: (...), token ids.

    Raises:
        ValueError: A logit is not finite, or so large that a loss is not.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the model answered with logits that are not finite")
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1, dtype=np.float64))
    chosen = np.take_along_axis(shifted, targets[..., None].astype(np.int64), axis=-1)[..., 0]
    nats = np.asarray(log_sum - chosen, dtype=np.float64)
    if not np.isfinite(nats).all():
        raise ValueError("the model answered with logits too far apart to be a probability")
    return nats


def bits_per_byte(nats: float, n_bytes: int) -> float:
    return nats / (math.log(2.0) * n_bytes)


def draw_probe(nats: NDArray[np.float64], count: int, rng: np.random.Generator) -> Probe:
    """Draw positions with replacement: half evenly, half where the model did suspiciously well.

    P(position) = 1/2 · 1/n + 1/2 · (p(target) + 0.02) / Σ (p + 0.02). A leak shows where the
    target was known; the even half is for one that keeps to targets of little probability.

    Args:
        nats: (N, T) loss of each scored target; NaN where a target is not scored.
        count: K, the number of positions.
        rng: Must not be known to the box.
    """
    scored = ~np.isnan(nats)
    suspicion = np.where(scored, np.exp(-np.nan_to_num(nats)) + _PROBE_FLOOR, 0.0)
    flat = (0.5 * scored / scored.sum() + 0.5 * suspicion / suspicion.sum()).ravel()
    flat /= flat.sum()
    chosen = rng.choice(flat.size, size=count, replace=True, p=flat)
    window, position = np.unravel_index(chosen, nats.shape)
    weight = 1.0 / flat[chosen]
    return Probe(window, position, weight / weight.sum())
