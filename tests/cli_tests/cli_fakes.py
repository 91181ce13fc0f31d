"""A study's objective without its boxes: what a trial leaves in storage, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from click.testing import Result
import optuna

from optuna_arrl.objective import records
from optuna_arrl.objective.manifest import check_manifest
from optuna_arrl.script import Script
from optuna_arrl.script import unified_diff
from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REASON_KEY


SOURCE = """\
LR = 0.1  # arrl: log 1e-3 1
DEPTH = 3  # arrl: int 1 8


def build_model():
    return None


def train(model):
    return None
"""


def score(lr: float, depth: int) -> float:
    """Value that the fake objective gives: 2.0 for the baseline, least at LR = 1, DEPTH = 8."""
    return 2.0 - 0.1 * (lr - 0.1) - 0.01 * (depth - 3)


@dataclass
class FakeObjective:
    """Stands in for TrainScriptObjective; `events` says what happens at each call, in order.

    An event is an exception to raise, or an outcome; without one a trial completes. `unready` is
    raised before there is a study.
    """

    target: Path = Path("train.py")
    events: list[Any] = field(default_factory=list)
    unready: BaseException | None = None
    manifest: dict[str, Any] = field(default_factory=lambda: {"profile": {"repeat_noise": 1e-3}})
    script: Script = field(default_factory=lambda: Script(SOURCE))

    def close(self) -> None:
        pass

    def get_ready(self) -> None:
        if self.unready is not None:
            raise self.unready

    def enqueue_baseline(self, study: optuna.Study) -> None:
        check_manifest(study, self.manifest)
        if study.get_trials(deepcopy=False):
            return
        study.enqueue_trial(self.script.defaults())
        waiting = study.get_trials(deepcopy=False)[0]
        study._storage.set_trial_system_attr(waiting._trial_id, BASELINE_KEY, True)

    def __call__(self, trial: optuna.Trial) -> float:
        store = records.open_artifact_store(trial.study, None)
        lr = trial.suggest_float("LR", 1e-3, 1, log=True)
        depth = trial.suggest_int("DEPTH", 1, 8)
        event = self.events.pop(0) if self.events else Outcome.COMPLETE
        if isinstance(event, BaseException):
            raise event
        if event is None:  # what the machine did is no outcome
            return float("nan")
        edited = self.script.render({"LR": lr, "DEPTH": depth})
        contents = {
            records.SOURCE_NAME: edited.encode(),
            records.DIFF_NAME: unified_diff(SOURCE, edited).encode(),
        }
        records.save_artifacts(trial, store, contents)
        trial.set_user_attr(OUTCOME_KEY, event.value)
        if event != Outcome.COMPLETE:
            trial.set_user_attr(REASON_KEY, "it ran out of luck")
        if event == Outcome.PRUNED:
            raise optuna.TrialPruned
        return score(lr, depth) if event == Outcome.COMPLETE else FAILURE_BPB


Arrl = Callable[..., Result]
