"""Policy versions in SQL tables, folders and memory."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path
import sqlite3
import subprocess
import sys
import threading

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
import pytest
import sqlalchemy
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from optuna_arrl import policy_store
from optuna_arrl.policy_store import FolderPolicyStore
from optuna_arrl.policy_store import MemoryPolicyStore
from optuna_arrl.policy_store import open_policy_store
from optuna_arrl.policy_store import PolicyDamaged
from optuna_arrl.policy_store import PolicyStore
from optuna_arrl.policy_store import PolicyVersion
from optuna_arrl.policy_store import SqlPolicyStore
from optuna_arrl.policy_store import study_key
from optuna_arrl.trajectory import ARTIFACTS_KEY


def version(number: int, *, weights: bytes | None = None) -> PolicyVersion:
    blob = b"weights %d" % number if weights is None else weights
    return PolicyVersion(
        version=number,
        parent=number - 1 if number else None,
        sha256=hashlib.sha256(blob).hexdigest(),
        weights=blob,
        optimiser=b"\x00moments" if number else None,
        rng='{"seed": [1, 2]}',
        consumed=(4 * number, 4 * number + 1, 4 * number + 3),
        statistics={"kl": 0.125 * number, "left_out": {"enqueued": number}},
        created=1.7e9 + number,
    )


def light(policy: PolicyVersion) -> PolicyVersion:
    return PolicyVersion(**{**policy.__dict__, "weights": None, "optimiser": None})


def sqlite_study(folder: Path, name: str = "study") -> optuna.Study:
    study = optuna.create_study(
        study_name=name, storage=f"sqlite:///{folder / 'study.db'}", load_if_exists=True
    )
    if not study.get_trials(deepcopy=False):
        study.ask()
    return study


def open_store(study: optuna.Study) -> PolicyStore:
    key = study_key(study)
    assert key is not None
    return open_policy_store(study, key)


@pytest.fixture(params=["sqlite", "folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PolicyStore:
    if request.param == "sqlite":
        return open_store(sqlite_study(tmp_path))
    return FolderPolicyStore(tmp_path / "p") if request.param == "folder" else MemoryPolicyStore()


def test_new_store_is_empty(store: PolicyStore) -> None:
    assert store.newest() is None
    assert store.records() == []
    with pytest.raises(KeyError):
        store.load(0)


def test_version_comes_back_bit_for_bit(store: PolicyStore) -> None:
    first, second = version(0), version(1, weights=bytes(range(256)) * 100)
    assert store.append(first)
    assert store.append(second)
    assert store.newest() == 1
    assert store.load(0) == first
    assert store.load(1) == second
    assert store.records() == [light(first), light(second)]


def test_second_writer_of_a_version_changes_nothing(store: PolicyStore) -> None:
    store.append(version(0))
    assert not store.append(version(0, weights=b"other"))
    assert store.load(0) == version(0)


def test_last_five_and_version_0_keep_their_weights(store: PolicyStore) -> None:
    for number in range(8):
        store.append(version(number))
    for number in (0, 3, 4, 5, 6, 7):
        assert store.load(number) == version(number)
    for number in (1, 2):
        with pytest.raises(KeyError):
            store.load(number)
    assert store.records() == [light(version(number)) for number in range(8)]


def test_too_large_version_is_refused(store: PolicyStore) -> None:
    with pytest.raises(ValueError, match="at most 16777216"):
        store.append(version(0, weights=bytes(2**24 + 1)))
    assert store.newest() is None


@pytest.mark.parametrize("kind", ["sqlite", "folder"])
def test_weights_changed_behind_our_back_are_noticed(kind: str, tmp_path: Path) -> None:
    if kind == "sqlite":
        store = open_store(sqlite_study(tmp_path))
        store.append(version(0))
        with sqlite3.connect(tmp_path / "study.db") as connection:
            connection.execute("UPDATE arrl_policy_versions SET weights = x'00'")
    else:
        store = FolderPolicyStore(tmp_path)
        store.append(version(0))
        (file,) = tmp_path.glob("*.safetensors")
        file.write_bytes(file.read_bytes().replace(b"weights 0", b"weights 9"))
    with pytest.raises(PolicyDamaged, match="version 0 is damaged"):
        store.load(0)


@pytest.mark.parametrize("kind", ["sqlite", "folder"])
def test_of_eight_threads_one_adds_the_version(kind: str, tmp_path: Path) -> None:
    study = sqlite_study(tmp_path)
    key = study_key(study)
    assert key is not None
    start = threading.Barrier(8)
    won: list[int] = []

    def work(worker: int) -> None:
        own: PolicyStore = FolderPolicyStore(tmp_path / "p")
        if kind == "sqlite":
            storage = optuna.storages.get_storage(f"sqlite:///{tmp_path / 'study.db'}")
            own = SqlPolicyStore(storage, study._study_id, key)
        start.wait()
        if own.append(version(0, weights=b"by %d" % worker)):
            won.append(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    store = open_store(study) if kind == "sqlite" else FolderPolicyStore(tmp_path / "p")
    assert store.load(0).weights == b"by %d" % won[0]


def _append_in_process(url: str, worker: int, results: multiprocessing.Queue[bool]) -> None:
    study = optuna.load_study(study_name="study", storage=url)
    results.put(open_store(study).append(version(0, weights=b"by %d" % worker)))


def test_of_two_processes_one_adds_the_version(tmp_path: Path) -> None:
    study = sqlite_study(tmp_path)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(
            target=_append_in_process,
            args=(f"sqlite:///{tmp_path / 'study.db'}", worker, results),
        )
        for worker in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted([results.get(), results.get()]) == [False, True]
    assert [policy.version for policy in open_store(study).records()] == [0]


def test_optuna_still_opens_and_upgrades_the_database(tmp_path: Path) -> None:
    study = sqlite_study(tmp_path)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with sqlite3.connect(tmp_path / "study.db") as connection:
        before = sorted(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    open_store(study).append(version(0))
    with sqlite3.connect(tmp_path / "study.db") as connection:
        after = sorted(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    added = [name for name, _ in after if (name, _) not in before]
    assert all("arrl_policy_versions" in name for name in added)
    assert [row for row in after if row[0] not in added] == before

    command = ["storage", "upgrade", "--storage", url]
    upgrade = subprocess.run(
        [sys.executable, "-c", "from optuna.cli import main; raise SystemExit(main())", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert upgrade.returncode == 0, upgrade.stderr
    assert len(optuna.load_study(study_name="study", storage=url).trials) == 1
    assert open_store(optuna.load_study(study_name="study", storage=url)).newest() == 0


def test_mysql_gets_a_long_blob() -> None:
    # MySQL takes the smallest blob that holds the given length: above 2**24 - 1, the long one.
    ddl = str(CreateTable(policy_store._definition()).compile(dialect=mysql.dialect()))
    assert "weights BLOB(16777216)" in ddl
    assert "optimiser BLOB(16777216)" in ddl


def test_a_locked_database_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(sqlite_study(tmp_path))
    store.append(version(0))
    waits: list[float] = []
    monkeypatch.setattr(policy_store.time, "sleep", waits.append)
    refusals = 2

    @sqlalchemy.event.listens_for(store._engine(), "before_cursor_execute")  # type: ignore[attr-defined]
    def refuse(*arguments: object) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise sqlalchemy.exc.OperationalError(
                "INSERT", {}, sqlite3.OperationalError("database is locked")
            )

    assert store.append(version(1))
    assert len(waits) == 2
    assert store.newest() == 1


def test_key_is_the_same_for_every_worker_and_differs_after_delete_and_recreate(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = sqlite_study(tmp_path)
    key = study_key(study)
    assert key is not None
    assert study_key(optuna.load_study(study_name="study", storage=url)) == key
    study.tell(0, 1.0)
    assert study_key(optuna.load_study(study_name="study", storage=url)) == key

    open_store(study).append(version(0))
    optuna.delete_study(study_name="study", storage=url)
    again = sqlite_study(tmp_path)
    assert again._study_id == study._study_id  # SQLite gives ids away again
    assert study_key(again) != key
    store = open_store(again)
    assert store.newest() is None
    store.append(version(0, weights=b"new"))
    with sqlite3.connect(tmp_path / "study.db") as connection:
        rows = connection.execute("SELECT study_key FROM arrl_policy_versions").fetchall()
    assert rows == [(study_key(again),)]  # the deleted study's rows are gone


def test_key_does_not_depend_on_the_time_zone(tmp_path: Path) -> None:
    study = sqlite_study(tmp_path)
    code = (
        "import optuna; from optuna_arrl.policy_store import study_key;"
        f"url = 'sqlite:///{tmp_path / 'study.db'}';"
        "print(study_key(optuna.load_study(study_name='study', storage=url)))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"TZ": zone, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for zone in ("Asia/Tokyo", "America/New_York")
    }
    assert keys == {study_key(study)}


def test_no_key_before_the_first_trial_starts() -> None:
    study = optuna.create_study()
    assert study_key(study) is None
    study.enqueue_trial({"x": 1.0})
    assert study_key(study) is None
    study.ask()
    assert study_key(study) is not None


def test_two_studies_of_one_database_have_their_own_versions(tmp_path: Path) -> None:
    first, second = sqlite_study(tmp_path, "first"), sqlite_study(tmp_path, "second")
    open_store(first).append(version(0))
    assert open_store(second).newest() is None
    open_store(second).append(version(0, weights=b"own"))
    assert open_store(first).load(0) == version(0)


def test_journal_study_uses_its_artifact_folder_once_it_has_one(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    study = optuna.create_study(storage=storage)
    study.ask()
    assert isinstance(open_store(study), MemoryPolicyStore)
    storage.set_study_system_attr(study._study_id, ARTIFACTS_KEY, str(tmp_path / "artifacts"))
    store = open_store(study)
    store.append(version(0))
    assert open_store(study).load(0) == version(0)
    assert [path.suffix for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == [
        ".safetensors"
    ]
