"""What a sampler costs: measured on top of the history that it is said to be measured on."""

from __future__ import annotations

from pathlib import Path
import sys
from types import SimpleNamespace
from typing import Any

from optuna.samplers import RandomSampler
import pytest

from benchmarks._records import append
from benchmarks.samplers import overhead
from benchmarks.samplers.rivals import Contender
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.rivals import Setting


class _SlowSampler(RandomSampler):
    """Takes 30 s of a made-up clock to learn before one trial, and 5 s to suggest any."""

    now = 0.0

    def before_trial(self, study: Any, trial: Any) -> None:
        if trial.number == 30:  # ten trials are there before
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
        "mean": 5_937.5,  # 30 s more in one of 32
        "update": 30_000.0,
        "first": 5_000.0,
        "tell": 0.0,
    }


def test_the_history_begins_with_the_default_and_has_crashes() -> None:
    first, *others = overhead._history(30, Setting("failure+constraint"))
    assert first.params["DEPTH"] == 8 and 0.98 < first.value < 1.0
    crashed = [trial for trial in others if trial.value == 8.0]
    assert crashed and all(max(trial.constraints.values()) > 0 for trial in crashed)


def test_reports_what_the_file_holds_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records.jsonl"
    ms = {"suggestion": 24.5, "mean": 25.0, "update": 0.0, "first": 25.3, "tell": 0.21}
    today = CONTENDERS["tpe"].version()
    for version, finished in ((today, 100), (today, 10_000), ("optuna 1.0", 100)):
        record = {"sampler": "tpe", "finished": finished, "version": version, "ms": ms}
        append(records, record | {"memory": 1.6})
    monkeypatch.setattr(
        sys, "argv", ["overhead", str(records), "--samplers", "tpe", "--finished", "100", "10000"]
    )
    overhead.main()  # nothing is missing
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "| 100 | tpe | 24 | 25 | 0 | 25 | 0.2 | 2 |"
    assert second.startswith("| 10,000 | tpe |")
    assert (tmp_path / "records.png").stat().st_size > 0
