"""Replay: the autoresearch task of `benchmarks.replay`."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import numpy as np

from benchmarks.replay.surrogate import as_rows
from benchmarks.replay.surrogate import DEFAULT
from benchmarks.replay.surrogate import FAILURE_BPB
from benchmarks.replay.surrogate import load_surrogate
from benchmarks.replay.surrogate import SPACE
from benchmarks.replay.surrogate import SURROGATE_FILE
from benchmarks.samplers.task import Outcome
from benchmarks.samplers.task import Task


__all__ = ["replay"]


def replay() -> Task:
    """Return the task: 14 hyperparameters, crashes, noise, seconds."""
    floor = json.loads(SURROGATE_FILE.with_name("floor.json").read_text(encoding="utf-8"))
    return Task(
        name="replay",
        version=f"surrogate {hashlib.sha256(SURROGATE_FILE.read_bytes()).hexdigest()[:12]}",
        space=SPACE,
        evaluate=_evaluate,
        default=DEFAULT,
        failure=FAILURE_BPB,
        floor=floor["floor"],
    )


def _evaluate(params: Mapping[str, Any], rng: np.random.Generator) -> Outcome:
    surrogate = load_surrogate()
    prediction = surrogate.predict(as_rows([params]))
    seconds = float(prediction.seconds[0])
    if not prediction.ran[0]:
        return Outcome(None, None, seconds)
    truth = float(prediction.val_bpb[0])
    return Outcome(truth + surrogate.noise.draw(truth, rng), truth, seconds)
