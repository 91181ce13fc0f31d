from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from optuna_arrl.objective import machine
from optuna_arrl.objective.machine import device_model
from optuna_arrl.objective.machine import has_nvidia
from optuna_arrl.objective.machine import worker_is_gone
from optuna_arrl.objective.machine import worker_record


def record_of_ended_process() -> dict[str, object]:
    script = (
        "import json; from optuna_arrl.objective.machine import worker_record; "
        "print(json.dumps(worker_record()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    record: dict[str, object] = json.loads(answer.stdout)
    return record


def test_this_process_lives() -> None:
    assert not worker_is_gone(worker_record())


def test_a_process_that_ended_is_gone() -> None:
    assert worker_is_gone(record_of_ended_process())


def test_a_process_that_was_killed_is_gone_before_its_parent_noticed() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = {
        **worker_record(),
        "pid": process.pid,
        "started": machine._start_time(process.pid),
    }
    assert not worker_is_gone(record)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    assert worker_is_gone(record)
    process.communicate()


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"started": 1}, True),  # the pid was given to another process
        ({"boot": "before the power cut"}, True),
        ({"host": "another"}, False),
        ({"host": "another", "boot": "another"}, False),
        ({"machine": "another", "boot": "another"}, False),  # host names repeat
        ({"namespace": 1, "pid": 1, "started": 1}, False),  # in a container we cannot look into
    ],
)
def test_what_makes_a_worker_gone(change: dict[str, object], gone: bool) -> None:
    assert worker_is_gone({**worker_record(), **change}) is gone


def test_worker_record_is_json() -> None:
    assert json.loads(json.dumps(worker_record())) == worker_record()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not has_nvidia()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert has_nvidia()


def test_device_model_names_the_processor() -> None:
    assert device_model("cpu") not in ("", "unknown")


@pytest.mark.skipif(has_nvidia(), reason="this machine has a GPU")
def test_device_model_of_a_missing_gpu_is_unknown() -> None:
    assert device_model("cuda") == "unknown"
