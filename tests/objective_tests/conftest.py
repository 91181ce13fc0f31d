"""A tiny prepared corpus, and boxes without torch."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
from pathlib import Path
import sys
import textwrap
from typing import Any

import psutil
import pytest
from tiny import prepare_tiny
from tiny import TINY

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import Profile
from optuna_arrl.objective import cores
from optuna_arrl.objective import supply
from optuna_arrl.objective.boxes import Limits
from optuna_arrl.objective.boxes import SupervisedBox


@pytest.fixture(autouse=True)
def _cores_without_neighbours(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that run beside the tests take no cores from them."""
    folder = tmp_path_factory.mktemp("cores")
    monkeypatch.setattr(cores, "_folder", lambda: folder)


@pytest.fixture(autouse=True)
def _nothing_started_ahead(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Start boxes when they are needed, unless a test is about those started ahead."""
    with pytest.MonkeyPatch.context() as patch:
        if "started_ahead" in request.keywords:
            # Its outcome does not depend on what else trains on this machine.
            folder = tmp_path_factory.mktemp("cores")
            patch.setattr(cores, "_folder", lambda: folder)
        else:
            patch.setattr(supply, "start_lock", lambda cores: None)
        yield


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_tiny(tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def tiny_with(tiny_prepared: Prepared) -> Callable[..., Prepared]:
    """The tiny corpus under another profile."""

    def change(**fields: Any) -> Prepared:
        profile: Profile = dataclasses.replace(TINY, **fields)
        return dataclasses.replace(tiny_prepared, profile=profile)

    return change


# Speaks the launcher's side of the handshake without torch; the box's own code follows it.
_HANDSHAKE = """
import json, os, signal, sys
control, reply, *curve = map(int, sys.argv[1:])
os.write(reply, b'{"ready": true}\\n')
line = b""
while not line.endswith(b"\\n"):
    line += os.read(control, 1)
task = json.loads(line)
"""


@pytest.fixture
def start_box(tmp_path: Path) -> Callable[..., SupervisedBox]:
    """Start a supervised box that runs a few lines of Python, with no torch in it."""

    def start(
        code: str,
        *,
        handshake: bool = True,
        hand_over: bool = True,
        curve: bool = False,
        cores: list[int] | None = None,
        orphaned: tuple[Path, ...] = (),
        **limits: Any,
    ) -> SupervisedBox:
        program = (_HANDSHAKE if handshake else "") + textwrap.dedent(code)
        run_seconds = limits.pop("run_seconds", 60.0)
        reference_seconds = limits.pop("reference_seconds", None)
        fields = {"start_seconds": 60.0, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30} | limits
        box = SupervisedBox(
            lambda fds: [sys.executable, "-I", "-S", "-c", program, *map(str, fds)],
            environment={"PATH": "/usr/bin:/bin"},
            folder=tmp_path,
            limits=Limits(**fields),
            curve=curve,
            paced=reference_seconds is not None,
            cores=cores,
            orphaned=orphaned,
        )
        if hand_over:
            box.hand_over(
                {"source": "train.py"},
                run_seconds=run_seconds,
                cores=None if reference_seconds is None else sorted(os.sched_getaffinity(0))[:1],
                reference_seconds=reference_seconds,
            )
        return box

    return start


@pytest.fixture
def assert_gone() -> Callable[[psutil.Process], None]:
    """Assert on the process table: the process is dead, whoever has still to collect it."""

    def check(process: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                process.wait(timeout=20)

    return check
