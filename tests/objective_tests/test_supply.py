from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import tempfile

import psutil
import pytest

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective.cores import CoreClaim
from optuna_arrl.objective.sandbox import PlainProcess
from optuna_arrl.objective.supply import BoxSupply


pytestmark = [
    pytest.mark.started_ahead,
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) < 2, reason="one core: nothing is started ahead here"
    ),
]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Boxes make their folders here, and leave none."""
    folder = tmp_path / "boxes"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def supply(tiny_prepared: Prepared) -> Iterator[BoxSupply]:
    supply = BoxSupply(tiny_prepared, PlainProcess())
    yield supply
    supply.close()


@pytest.fixture
def claim() -> Iterator[CoreClaim]:
    with CoreClaim(1) as claim:
        yield claim


def launchers() -> set[int]:
    """Processes of boxes that belong to this process."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("launcher" in word for word in process.cmdline()):
                found.add(process.pid)
    return found


def test_box_started_ahead_is_the_one_that_is_used_and_used_once(
    supply: BoxSupply, claim: CoreClaim
) -> None:
    supply.start_ahead({"answer": 1}, claim)
    (spare,) = supply._spares["answer"]
    assert spare.supervised.is_ready(wait=True)
    (pid,) = launchers()
    assert psutil.Process(pid).cpu_affinity() == claim.others[:1]
    with supply.box("answer", claim) as first:
        assert first is spare
    assert not psutil.pid_exists(pid)
    with supply.box("answer", claim) as second:
        assert second is not spare


def test_as_many_as_asked_for_wait_and_no_more(supply: BoxSupply, claim: CoreClaim) -> None:
    supply.start_ahead({"answer": 2}, claim)
    for spare in supply._spares["answer"]:
        assert spare.supervised.is_ready(wait=True)
    supply.start_ahead({"answer": 2}, claim)
    assert len(supply._spares["answer"]) == 2


def test_kinds_are_not_mixed(supply: BoxSupply, claim: CoreClaim) -> None:
    supply.start_ahead({"answer": 1}, claim)
    assert supply._take_spare("train") is None


def test_closing_ends_what_waits_and_leaves_nothing(
    supply: BoxSupply, claim: CoreClaim, folders: Path
) -> None:
    supply.start_ahead({"answer": 2}, claim)
    supply.close()
    assert not launchers()
    assert not list(folders.iterdir())


def test_spare_that_died_is_not_used(supply: BoxSupply, claim: CoreClaim, folders: Path) -> None:
    supply.start_ahead({"answer": 1}, claim)
    (spare,) = supply._spares["answer"]
    assert spare.supervised.is_ready(wait=True)
    (pid,) = launchers()
    psutil.Process(pid).kill()
    spare.supervised.wait_until_ended()
    assert supply._take_spare("answer") is None
    assert not list(folders.iterdir())


def test_boxes_of_several_kinds_start_together(supply: BoxSupply, claim: CoreClaim) -> None:
    supply.start_ahead({"answer": 2, "train": 1}, claim)
    assert [len(supply._spares[mode]) for mode in ("answer", "train")] == [2, 1]
    supply.start_ahead({"train": 1}, claim)  # there is one
    assert len(supply._spares["train"]) == 1


def test_nothing_starts_ahead_without_a_core_of_its_own(
    supply: BoxSupply, claim: CoreClaim
) -> None:
    with CoreClaim(1):  # the other core of two; on a larger machine, all others
        claim.others = claim.others[:1]
        supply.start_ahead({"answer": 1}, claim)
        assert not supply._spares["answer"]


def test_forked_process_leaves_the_spares_to_its_parent(
    supply: BoxSupply, claim: CoreClaim
) -> None:
    supply.start_ahead({"answer": 1}, claim)
    (spare,) = supply._spares["answer"]
    assert spare.supervised.is_ready(wait=True)
    child = os.fork()
    if child == 0:
        os._exit(0 if supply._take_spare("answer") is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert supply._take_spare("answer") is spare
    with spare.supervised as box:
        assert box.is_ready()


def test_answering_box_has_no_training_data(supply: BoxSupply, claim: CoreClaim) -> None:
    with supply.box("answer", claim) as started:
        assert started.supervised.is_ready(wait=True)
        (pid,) = launchers()
        assert "ARRL_DATA" not in psutil.Process(pid).environ()
