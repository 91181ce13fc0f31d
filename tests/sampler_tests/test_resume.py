"""A new process with only the storage goes on where the last one stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
import shutil
import signal
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
import pytest

from optuna_arrl.policy_store import open_policy_store
from optuna_arrl.policy_store import study_key
from optuna_arrl.sampler import ARRLSampler
from optuna_arrl.trajectory import ARTIFACTS_KEY
from optuna_arrl.trajectory import POLICY_VERSION_KEY


def bowl(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    return x**2 + trial.suggest_int("k", 1, 64, log=True) + trial.suggest_categorical("c", [0, 1])


def open_storage(kind: str, folder: Path) -> BaseStorage:
    if kind == "sqlite":
        return optuna.storages.get_storage(f"sqlite:///{folder / 'study.db'}")
    return JournalStorage(JournalFileBackend(str(folder / "study.log")))


def open_study(kind: str, folder: Path, seed: int | None = None) -> optuna.Study:
    study = optuna.create_study(
        study_name="study",
        storage=open_storage(kind, folder),
        sampler=ARRLSampler(seed=seed, batch_size=4),
        load_if_exists=True,
    )
    if kind == "folder":
        study._storage.set_study_system_attr(
            study._study_id, ARTIFACTS_KEY, str(folder / "artifacts")
        )
    return study


def next_trial(study: optuna.Study) -> dict[str, Any]:
    """Run a trial; return what it was and which weights chose it."""
    study.optimize(bowl, n_trials=1)
    (learner,) = study.sampler._learners.values()  # type: ignore[attr-defined]
    trial = study.trials[-1]
    return {
        "params": trial.params,
        "action": trial.system_attrs["arrl:action"],
        "weights": learner.policy.sha256,
    }


def _resume(kind: str, folder: Path, queue: multiprocessing.Queue[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    queue.put(json.dumps(next_trial(open_study(kind, folder))))


@pytest.mark.parametrize("kind", ["sqlite", "journal", "folder"])
def test_a_new_process_has_the_same_policy_and_the_same_next_proposal(
    kind: str, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    study = open_study(kind, here)
    study.optimize(bowl, n_trials=8)
    shutil.copytree(here, there)
    expected = next_trial(study)
    assert expected["action"]["policy_version"] == 2

    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    process = context.Process(target=_resume, args=(kind, there, queue))
    process.start()
    found = json.loads(queue.get())
    process.join()
    assert found == json.loads(json.dumps(expected))


def test_a_study_deleted_and_made_anew_starts_fresh(tmp_path: Path) -> None:
    study = open_study("sqlite", tmp_path, seed=0)
    study.optimize(bowl, n_trials=6)
    sampler = study.sampler
    optuna.delete_study(study_name="study", storage=study._storage)
    again = optuna.create_study(study_name="study", storage=study._storage, sampler=sampler)
    assert again._study_id == study._study_id
    again.optimize(bowl, n_trials=3)
    assert again.trials[2].user_attrs[POLICY_VERSION_KEY] == 0
    fresh = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4))
    fresh.optimize(bowl, n_trials=3)
    assert [t.params for t in again.trials] == [t.params for t in fresh.trials]


def _die_in_trial_6(folder: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        if trial.number == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    open_study("sqlite", folder, seed=0).optimize(objective, n_trials=9)


def test_kill_in_mid_trial_loses_no_finished_trial_and_no_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_die_in_trial_6, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    study = open_study("sqlite", tmp_path)
    assert [t.state.is_finished() for t in study.trials] == [True] * 6 + [False]
    study.optimize(bowl, n_trials=3)
    key = study_key(study)
    assert key is not None
    records = open_policy_store(study, key).records()
    assert [record.consumed for record in records] == [(), (0, 1, 2, 3), (4, 5, 7, 8)]
    assert study.trials[7].system_attrs["arrl:action"]["unseen"] == [[6, 6]]


def _work(folder: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    open_study("sqlite", folder, seed=0).optimize(bowl, n_trials=8)


def test_two_workers_consume_every_trial_once(tmp_path: Path) -> None:
    study = open_study("sqlite", tmp_path, seed=0)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 16
    key = study_key(study)
    assert key is not None
    records = open_policy_store(study, key).records()
    assert [record.version for record in records] == list(range(len(records)))
    consumed = [number for record in records for number in record.consumed]
    assert len(consumed) == len(set(consumed)) >= 8
