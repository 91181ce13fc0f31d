from __future__ import annotations

from pathlib import Path

import pytest

from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import box_environment
from optuna_arrl.objective.sandbox import PlainProcess
from optuna_arrl.objective.sandbox import Sandbox


BOX = Box(
    view=Path("/t/view"),
    inbox=Path("/t/inbox"),
    scratch=Path("/t/scratch"),
    readable=(Path("/data"),),
)


def test_environment_is_made_from_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "LD_PRELOAD", "OMP_NUM_THREADS", "API_TOKEN", "HTTP_PROXY"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    environment = box_environment(BOX, data=Path("/data"), profile_json="{}", threads=2)
    ours = {
        "GLIBC_TUNABLES",
        "THP_MEM_ALLOC_ENABLE",
    }  # how torch's memory is kept, the same for all
    assert ours <= environment.keys()
    assert {name: environment[name] for name in environment.keys() - ours} == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "USER": "box",
        "HOME": "/t/scratch",
        "TMPDIR": "/t/scratch",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ARRL_DATA": "/data",
        "ARRL_PROFILE": "{}",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "3",
    }


def test_threads_are_left_to_the_libraries_when_none_are_given() -> None:
    environment = box_environment(BOX, data=Path("/data"), profile_json="{}", threads=0)
    assert "OMP_NUM_THREADS" not in environment


def test_plain_process_says_that_it_isolates_nothing() -> None:
    sandbox: Sandbox = PlainProcess()
    assert (sandbox.name, sandbox.isolated) == ("none", False)
    assert sandbox.command(BOX, ("python", "x.py")) == ["python", "x.py"]
