"""Trials that the machine lost, and the queue that their edits go back to."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from contextlib import suppress
import os
from typing import Any
from typing import TYPE_CHECKING

from optuna.exceptions import UpdateFinishedTrialError
from optuna.logging import get_logger
from optuna.trial import create_trial
from optuna.trial import TrialState

from optuna_arrl.objective.machine import worker_is_gone
from optuna_arrl.objective.records import storage_file
from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import FIXED_PARAMS_KEY
from optuna_arrl.trajectory import PARENT_KEY
from optuna_arrl.trajectory import RETRY_OF_KEY
from optuna_arrl.trajectory import WORKER_KEY


if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


__all__ = ["enqueue", "fail_orphans", "one_at_a_time", "requeue"]

_logger = get_logger(f"optuna.{__name__}")


@contextmanager
def one_at_a_time(study: Study) -> Iterator[None]:
    """Keep other processes of this machine out, as far as they come through here too.

    Storages offer no way to look and then write in one step. Where a study lies in a file, the
    lock is on the file's folder; where it does not, there is none and callers must cope.
    """
    file = storage_file(study)
    if file is None:
        yield
        return
    import fcntl  # Windows has none, and is refused in a sentence by what imports this

    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def enqueue(
    study: Study,
    params: Mapping[str, Any],
    *,
    system_attrs: Mapping[str, Any] | None = None,
    user_attrs: Mapping[str, Any] | None = None,
) -> None:
    """Enqueue a trial as :meth:`optuna.study.Study.enqueue_trial` does, with system attributes.

    Args:
        study:
            The study whose queue is meant.
        params:
            Parameter values of the trial.
        system_attrs:
            Further system attributes of the trial.
        user_attrs:
            User attributes of the trial.
    """
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            system_attrs={**(system_attrs or {}), FIXED_PARAMS_KEY: dict(params)},
            user_attrs=dict(user_attrs or {}),
        )
    )


def requeue(study: Study, trial: FrozenTrial) -> bool:
    """Enqueue an edit once more that the machine lost; a second loss is final.

    Args:
        study:
            The study of the trial.
        trial:
            The lost trial as storage has it now.

    Returns:
        Whether it was enqueued. It is not when the trial was itself a second go, or ended before
        anything about its edit was known.
    """
    params = {**trial.system_attrs.get(FIXED_PARAMS_KEY, {}), **trial.params}
    if not params or RETRY_OF_KEY in trial.user_attrs:
        return False
    # The parent is still the edit's; its action is not taken along: nobody draws it this time.
    users_own = {
        k: v for k, v in trial.user_attrs.items() if not k.startswith("arrl:") or k == PARENT_KEY
    }
    enqueue(
        study,
        params,
        system_attrs={k: v for k, v in trial.system_attrs.items() if k == BASELINE_KEY},
        user_attrs={**users_own, RETRY_OF_KEY: trial.number},
    )
    return True


def fail_orphans(study: Study) -> list[int]:
    """End the running trials whose process is gone, and enqueue their edits once more.

    Only trials of processes of this machine are touched, see
    :func:`~optuna_arrl.objective.machine.worker_is_gone`.

    Returns:
        Numbers of the trials that were ended.
    """
    ended = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        record = trial.system_attrs.get(WORKER_KEY)
        # A copy of a trial (Optuna's heartbeat makes them) carries the record of another trial.
        if not record or record.get("trial", trial.number) != trial.number:
            continue
        if not worker_is_gone(record):
            continue
        try:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            continue  # another process was faster
        ended.append(trial.number)
        again = requeue(study, trial)
        _logger.warning(
            f"Trial {trial.number} was left by a process that ended in the middle of it"
            + ("; its edit is enqueued once more." if again else ".")
        )
    return ended
