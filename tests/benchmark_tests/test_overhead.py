"""What a sampler costs: measured on top of the history that it is said to be measured on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from optuna.samplers import RandomSampler
import pytest

from benchmarks.samplers import overhead
from benchmarks.samplers.rivals import Contender
from benchmarks.samplers.rivals import CONTENDERS


class _SlowSampler(RandomSampler):
    """Takes 30 s of a made-up clock to learn before one trial, and 5 s to suggest any."""

    now = 0.0

    def before_trial(self, study: Any, trial: Any) -> None:
        if trial.number == 12:  # ten trials are there before
            _SlowSampler.now += 30

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        _SlowSampler.now += 5
        return {}


def test_learning_and_suggesting_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Contender(
        lambda space, start, seed, setting: _SlowSampler(seed=seed),
        lambda: "1",
        codings=("failure",),
    )
    monkeypatch.setitem(CONTENDERS, "slow", contender)
    clock = SimpleNamespace(perf_counter=lambda: _SlowSampler.now)
    monkeypatch.setattr(overhead, "time", clock)
    assert overhead.measure("slow", finished=10)["ms"] == {
        "suggestion": 5_000.0,
        "update": 30_000.0,
        "first": 5_000.0,
        "tell": 0.0,
    }


def test_the_history_begins_with_the_default_and_has_crashes() -> None:
    first, *others = overhead._history(30)
    assert first.params["DEPTH"] == 8 and 0.98 < first.value < 1.0
    crashed = [trial for trial in others if trial.value == 8.0]
    assert crashed and all(max(trial.constraints.values()) > 0 for trial in crashed)
