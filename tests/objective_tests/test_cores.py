from __future__ import annotations

import os

import pytest

from optuna_arrl.objective.cores import CoreClaim
from optuna_arrl.objective.cores import start_lock


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    # Numbers that no machine has: trials that run beside the tests are not disturbed.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9001, 9002, 9003, 9004})


def test_claims_do_not_overlap() -> None:
    with CoreClaim(1) as first, CoreClaim(2) as second:
        assert (first.cores, second.cores) == ([9001], [9002, 9003])
        assert first.others == [9002, 9003, 9004]
    with CoreClaim(1) as again:
        assert again.cores == [9001]


def test_who_comes_too_late_shares_and_starts_nothing_ahead() -> None:
    with CoreClaim(3), CoreClaim(2) as late:
        assert len(late.cores) == 2
        assert set(late.cores) < {9001, 9002, 9003, 9004}
        assert late.others == []
        with CoreClaim(1) as last:  # what it did not get it does not keep
            assert last.cores == [9004]


@pytest.mark.parametrize("count", [0, 4, 64])
def test_who_wants_all_cores_gets_them_and_starts_nothing_ahead(count: int) -> None:
    with CoreClaim(count) as claim:
        assert (claim.cores, claim.others) == ([9001, 9002, 9003, 9004], [])


def test_nothing_starts_where_a_trial_trains() -> None:
    with CoreClaim(3):
        place = start_lock([9001, 9002, 9003, 9004])
        assert place is not None and place[0] == 9004
        assert start_lock([9004]) is None  # one start at a time
        os.close(place[1])
        assert start_lock([9001, 9002, 9003]) is None
    place = start_lock([9001])
    assert place is not None
    os.close(place[1])


def test_start_is_over_when_every_copy_of_its_lock_is_closed() -> None:
    place = start_lock([9001])
    assert place is not None
    copy = os.dup(place[1])
    os.close(place[1])
    assert start_lock([9001]) is None
    os.close(copy)
    again = start_lock([9001])
    assert again is not None
    os.close(again[1])


def test_claims_of_another_process_count(tmp_path: object) -> None:
    told, tell = os.pipe()
    done, finish = os.pipe()
    child = os.fork()
    if child == 0:
        with CoreClaim(1):
            os.write(tell, b"x")
            os.close(finish)
            os.read(done, 1)
        os._exit(0)
    os.read(told, 1)
    with CoreClaim(1) as claim:
        assert claim.cores == [9002]
    os.close(finish)
    os.waitpid(child, 0)
    with CoreClaim(1) as claim:
        assert claim.cores == [9001]
    for fd in (told, tell, done):
        os.close(fd)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Where threads are moved to, in turn."""
    moved: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: moved.append(set(cores)))
    return moved


def test_thread_that_works_beside_a_trial_keeps_off_its_cores(moves: list[set[int]]) -> None:
    everywhere = {9001, 9002, 9003, 9004}
    with CoreClaim(1) as claim, claim.aside():
        assert moves == [everywhere - set(claim.cores)]
    assert moves[1:] == [everywhere]


def test_thread_stays_where_it_is_if_there_is_nowhere_else(moves: list[set[int]]) -> None:
    with CoreClaim(0) as claim, claim.aside():
        assert not moves
