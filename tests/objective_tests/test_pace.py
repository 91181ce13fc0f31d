from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
from typing import Any

import pytest

from optuna_arrl.objective import _pace
from optuna_arrl.objective import machine
from optuna_arrl.objective._pace import Pace
from optuna_arrl.objective.machine import machine_reference_seconds


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """CPU seconds of the pieces that a pace measures, in turn."""
    seconds = [0.0]  # the first is not measured
    monkeypatch.setattr(_pace._Work, "seconds", lambda work: seconds.pop(0))
    return seconds


def pace_after(pieces: list[float], *seconds: float, share: float = 0.95) -> Pace:
    pieces += seconds
    pace = Pace(0.005, min(os.sched_getaffinity(0)))
    pace.share = share
    for _ in seconds:
        pace.measure()
    return pace


def test_before_the_first_piece_a_budget_second_is_a_second(pieces: list[float]) -> None:
    assert pace_after(pieces).rate == 1.0


@pytest.mark.parametrize(
    ("seconds", "share", "rate"),
    [
        ([0.005, 0.005], 0.95, 1.0),
        ([0.004, 0.008], 0.95, 5.0 / 6.0),  # of the mean, not the mean of the rates
        ([0.005], 0.475, 0.5),  # another process has half of the core
        ([0.004], 0.76, 1.0),
        ([0.001], 0.95, 2.0),
        ([0.005], 0.01, 0.33),
    ],
)
def test_budget_seconds_pass_as_work_could_be_done(
    pieces: list[float], seconds: list[float], share: float, rate: float
) -> None:
    assert pace_after(pieces, *seconds, share=share).rate == pytest.approx(rate)


def test_piece_is_done_on_the_core_of_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.sched_getaffinity(0)
    seen = []

    def seconds(work: Any) -> float:
        seen.append(os.sched_getaffinity(0))
        return 0.005

    monkeypatch.setattr(_pace._Work, "seconds", seconds)
    Pace(0.005, max(own)).measure()
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
    "kept", ["", "[]", "{}", '{"processor": "another", "reference_seconds": 1.0}']
)
def test_what_another_machine_kept_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    (tmp_path / "pace.json").write_text(kept)
    monkeypatch.setattr(
        machine.subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="0.0125\n"),
    )
    monkeypatch.setattr(machine, "device_model", lambda device: "this one")
    assert machine_reference_seconds(tmp_path) == 0.0125
    assert json.loads((tmp_path / "pace.json").read_text())["processor"] == "this one"
