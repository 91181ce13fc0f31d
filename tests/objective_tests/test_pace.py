from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
from typing import Any

import pytest

from optuna_arrl.objective import _pace
from optuna_arrl.objective import reference
from optuna_arrl.objective._pace import Pace
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.reference import machine_reference_seconds


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """CPU seconds of the pieces that a pace measures, in turn."""
    seconds = [0.0]  # the first is not measured
    monkeypatch.setattr(_pace._Work, "seconds", lambda work: seconds.pop(0))
    return seconds


def pace_after(
    pieces: list[float], *seconds: float, cpu_seconds: float = 0.95e6, wall_seconds: float = 1e6
) -> Pace:
    pieces += seconds
    pace = Pace(0.005, min(os.sched_getaffinity(0)), longest=3.0)
    pace.observe(cpu_seconds, wall_seconds)
    for _ in seconds:
        pace.measure()
    return pace


def test_before_anything_was_seen_a_budget_second_is_a_second(pieces: list[float]) -> None:
    assert pace_after(pieces, cpu_seconds=0.0, wall_seconds=0.0).rate == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("seconds", "share", "rate"),
    [
        ([0.005] * 10, 0.95, 1.0),
        # of the mean, not the mean of the rates; two pieces of 5 ms are taken as seen before
        ([0.004, 0.008] * 5, 0.95, 0.005 * 12 / 0.07),
        ([0.005] * 10, 0.475, 0.5),  # another process has half of the core
        ([0.004] * 8, 0.76, 0.8 * 0.005 * 10 / 0.042),
        ([0.0005] * 100, 0.95, 2.0),
        ([0.005], 0.01, 1.0 / 3.0),
    ],
)
def test_budget_seconds_pass_as_work_could_be_done(
    pieces: list[float], seconds: list[float], share: float, rate: float
) -> None:
    pace = pace_after(pieces, *seconds, cpu_seconds=1e6 * share)
    assert pace.rate == pytest.approx(rate, rel=1e-5)


def test_first_moments_say_little(pieces: list[float]) -> None:
    # A clock that ticks 100 times a second may see no time used in the first tenth: of the
    # 0.3 s that are taken as seen before, 0.285 were.
    pace = pace_after(pieces, 0.005, cpu_seconds=0.0, wall_seconds=0.1)
    assert pace.rate == pytest.approx(0.285 / 0.4 / 0.95)


def test_work_of_a_trial_is_its_time_at_the_speed_of_the_machine(pieces: list[float]) -> None:
    assert pace_after(pieces, *[0.0025] * 98).work_of(9.5) == pytest.approx(
        10.0 * 0.005 * 100 / (98 * 0.0025 + 0.01)
    )


def test_piece_is_done_on_the_core_of_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.sched_getaffinity(0)
    seen = []

    def seconds(work: Any) -> float:
        seen.append(os.sched_getaffinity(0))
        return 0.005

    monkeypatch.setattr(_pace._Work, "seconds", seconds)
    Pace(0.005, max(own), longest=3.0).measure()
    assert seen == [own, {max(own)}]
    assert os.sched_getaffinity(0) == own


def test_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine_reference_seconds(tmp_path)
    assert 1e-5 < first < 10.0

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured before")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert machine_reference_seconds(tmp_path) == first


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "[]",
        "{}",
        '{"processor": "another", "reference_seconds": 0.005}',
        '{"processor": "this one", "reference_seconds": 0}',
        '{"processor": "this one", "reference_seconds": NaN}',
    ],
)
def test_what_another_machine_kept_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    (tmp_path / "pace.json").write_text(kept)
    monkeypatch.setattr(
        reference.subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="0.0125\n"),
    )
    monkeypatch.setattr(reference, "device_model", lambda device: "this one")
    assert machine_reference_seconds(tmp_path) == 0.0125
    assert json.loads((tmp_path / "pace.json").read_text())["processor"] == "this one"


def test_machine_that_cannot_be_measured_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="No module named 'numpy'\n")
    monkeypatch.setattr(reference.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(reference, "device_model", lambda device: "this one")
    with pytest.raises(MachineFault, match="could not be measured: No module named 'numpy'"):
        machine_reference_seconds(tmp_path)
