from __future__ import annotations

from collections.abc import Callable
import json
import math
import multiprocessing
import os
from pathlib import Path
import pickle
from typing import Any
from typing import ClassVar

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.samplers import BaseSampler
from optuna.samplers import CmaEsSampler
from optuna.samplers import GPSampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from optuna_dashboard import get_note
import pytest

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective import machine
from optuna_arrl.objective import objective as objective_module
from optuna_arrl.objective import records
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.machine import worker_record
from optuna_arrl.objective.manifest import ManifestMismatch
from optuna_arrl.objective.objective import TrainScriptObjective
from optuna_arrl.objective.runner import Measurement
from optuna_arrl.objective.sandbox import PlainProcess
from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import COMPLETED_BPB_CAP
from optuna_arrl.trajectory import CURVE_KEY
from optuna_arrl.trajectory import EDIT_HASH_KEY
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import ISOLATED_KEY
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import MEASUREMENT_KEY
from optuna_arrl.trajectory import MEMORY_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import RAN_CONSTRAINT
from optuna_arrl.trajectory import REASON_KEY
from optuna_arrl.trajectory import RETRY_OF_KEY
from optuna_arrl.trajectory import REUSED_FROM_KEY
from optuna_arrl.trajectory import SANDBOX_KEY
from optuna_arrl.trajectory import SECONDS_KEY
from optuna_arrl.trajectory import TRAIN_SECONDS_KEY
from optuna_arrl.trajectory import VERIFIED_KEY
from optuna_arrl.trajectory import WORKER_KEY


TARGET = """\
LEARNING_RATE = 0.1  # arrl: log 1e-3 1
DECAY = 0.5  # arrl: linear 0.001 1


def build_model():
    return None


def train(model):
    return LEARNING_RATE, DECAY
"""
EDIT = {"LEARNING_RATE": 0.2, "DECAY": 0.25}
FAULT = MachineFault("the disk that holds /tmp is full")
Behaviour = Callable[[dict[str, float]], "Measurement | BaseException"]


def measured(
    val_bpb: float | None = 2.0, outcome: Outcome = Outcome.COMPLETE, **changes: Any
) -> Measurement:
    fields: dict[str, Any] = {
        "reason": "" if outcome == Outcome.COMPLETE else f"it ended as {outcome.value}",
        "seconds": {"train": 11.5, "total": 19.25},
        "rate": 1.0,
        "peak_memory_bytes": 3 * 2**20,
        "steps": 7,
        "curve": [(5, 4.0), (10, 3.0)],
        "log": b"hello\n",
        "leak": {"mean": 0.0},
        "sandbox": "none",
        "isolated": False,
    }
    return Measurement(outcome=outcome, val_bpb=val_bpb, **{**fields, **changes})


def failed(outcome: Outcome) -> Measurement:
    return measured(None, outcome)


class FakeRunner:
    """Does what the test wants instead of training; keeps what it was asked."""

    behaviour: Behaviour
    runs: ClassVar[list[dict[str, float]]]
    seeds: ClassVar[list[int]]
    told_best: ClassVar[list[float | None]]

    def __init__(self, prepared: Prepared, *, sandbox: str) -> None:
        self.prepared = prepared
        self.reference_seconds = 0.005
        self.sandbox = PlainProcess()

    def close(self) -> None:
        pass

    def run(
        self,
        source: str,
        *,
        seed: int = 0,
        on_curve: Callable[[int, float], bool] | None = None,
        best_so_far: float | None = None,
        reference_seconds: float | None = None,
    ) -> Measurement:
        values: dict[str, Any] = {}
        exec(source, values)
        learning_rate, decay = values["train"](values["build_model"]())
        run = {"LEARNING_RATE": learning_rate, "DECAY": decay}
        self.runs.append(run)
        self.seeds.append(seed)
        self.told_best.append(best_so_far)
        result = type(self).behaviour(run)
        if isinstance(result, BaseException):
            raise result
        for percent, bpb in result.curve:
            if on_curve is not None and on_curve(percent, bpb):
                return failed(Outcome.PRUNED)
        return result


@pytest.fixture(autouse=True)
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeRunner]:
    class Runner(FakeRunner):
        behaviour = staticmethod(lambda run: measured(run["LEARNING_RATE"] + run["DECAY"]))
        runs: ClassVar[list[dict[str, float]]] = []
        seeds: ClassVar[list[int]] = []
        told_best: ClassVar[list[float | None]] = []

    manifest = {"corpus": "tiny", "sha256": {"visible/train.bin": "a" * 64}}
    monkeypatch.setattr(
        objective_module,
        "prepare",
        lambda profile, *, corpus: Prepared(tmp_path, profile, manifest),
    )
    monkeypatch.setattr(objective_module, "TrialRunner", Runner)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Runner


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target.py"
    path.write_text(TARGET)
    return path


@pytest.fixture
def objective(target: Path) -> TrainScriptObjective:
    return TrainScriptObjective(target, profile="cpu")


@pytest.fixture(params=["memory", "sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    if request.param == "sqlite":
        return RDBStorage(f"sqlite:///{tmp_path}/study.db")
    if request.param == "journal":
        return JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    return InMemoryStorage()


def new_study(
    storage: BaseStorage | str | None = None,
    *,
    sampler: BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    return optuna.create_study(
        storage=storage, study_name="s", sampler=sampler or RandomSampler(seed=0), pruner=pruner
    )


def baselines(study: optuna.Study) -> list[int]:
    return [t.number for t in study.trials if t.system_attrs.get(BASELINE_KEY)]


# Arguments


def test_the_script_of_the_package_is_the_default_target() -> None:
    objective = TrainScriptObjective(profile="cpu")
    assert objective.target.name == "train.py"
    assert len(objective.script.active) >= 20


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is not a file"),
        (b"def build_model(:\n", "is not a Python script"),
        (b"\xff\xfe", "is not a Python script"),
        (b"x = 1\x00\n", "is not a Python script"),
        (b"x = 1\n", "does not define build_model and train"),
        (b"def train(model): pass\n", "does not define build_model"),
    ],
)
def test_an_unusable_target_is_told_in_a_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "other.py"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as refusal:
        TrainScriptObjective(path, profile="cpu")
    assert str(path) in str(refusal.value)


def test_an_unknown_profile_is_refused(target: Path) -> None:
    with pytest.raises(ValueError, match="`profile` must be one of cpu, gpu, but got tpu"):
        TrainScriptObjective(target, profile="tpu")


@pytest.mark.parametrize("budget", [0, 0.9, -1.0, math.nan, math.inf])
def test_a_budget_below_a_second_is_refused(target: Path, budget: float) -> None:
    with pytest.raises(ValueError, match="`budget_seconds` must be 1 or more"):
        TrainScriptObjective(target, profile="cpu", budget_seconds=budget)


def test_the_profile_follows_the_device(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_nvidia", lambda: True)
    gpu = TrainScriptObjective(target)
    monkeypatch.setattr(machine, "has_nvidia", lambda: False)
    cpu = TrainScriptObjective(target)
    assert gpu._profile.device == "cuda"
    assert cpu._profile.device == "cpu"
    with pytest.raises(ValueError, match="needs an NVIDIA device"):
        TrainScriptObjective(target, profile="gpu")


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "minimize"]])
def test_only_one_minimised_objective_is_taken(
    objective: TrainScriptObjective, directions: Any
) -> None:
    study = optuna.create_study(directions=directions)
    with pytest.raises(ValueError, match="direction='minimize'"):
        objective.enqueue_baseline(study)
    with pytest.raises(ValueError, match="direction='minimize'"):
        study.optimize(objective, n_trials=1)


def test_a_script_without_slots_cannot_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text("def build_model():\n    return None\n\n\ndef train(model):\n    pass\n")
    with pytest.raises(ValueError, match="nothing to search"):
        TrainScriptObjective(path, profile="cpu").enqueue_baseline(new_study())


def test_a_frozen_trial_cannot_be_run(objective: TrainScriptObjective) -> None:
    with pytest.raises(TypeError, match="measure"):
        objective(optuna.trial.create_trial(value=1.0))  # type: ignore[arg-type]


# Outcomes


def test_a_completed_trial(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    study = new_study(storage)
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == pytest.approx(sum(trial.params.values()))
    assert runner.runs == [trial.params]
    assert runner.seeds == [0]
    assert trial.user_attrs[OUTCOME_KEY] == "complete"
    assert REASON_KEY not in trial.user_attrs
    assert trial.user_attrs[VERIFIED_KEY] is True
    assert trial.user_attrs[ISOLATED_KEY] is False
    assert trial.user_attrs[TRAIN_SECONDS_KEY] == 11.5
    assert trial.user_attrs[MEMORY_KEY] == 3.0
    assert trial.user_attrs[SECONDS_KEY] >= 0
    assert len(trial.user_attrs[EDIT_HASH_KEY]) > 10
    assert trial.constraints == {RAN_CONSTRAINT: -1.0}
    assert trial.system_attrs[CURVE_KEY] == [[5, 4.0], [10, 3.0]]
    assert trial.system_attrs[MEASUREMENT_KEY]["seconds"] == {"train": 11.5, "total": 19.25}
    assert trial.system_attrs[MEASUREMENT_KEY]["steps"] == 7
    assert trial.system_attrs[MEASUREMENT_KEY]["leak"] == {"mean": 0.0}
    assert trial.intermediate_values == {5: 4.0, 10: 3.0}


def test_every_slot_is_suggested_with_its_own_distribution(
    objective: TrainScriptObjective,
) -> None:
    study = new_study()
    study.optimize(objective, n_trials=1)
    wanted = {name: slot.distribution for name, slot in objective.script.active.items()}
    assert study.trials[0].distributions == wanted
    assert len(wanted) == 2


@pytest.mark.parametrize(
    "outcome", [Outcome.CRASH, Outcome.OOM, Outcome.TIMEOUT, Outcome.REJECTED]
)
def test_a_failed_edit_gets_the_penalty_and_the_study_goes_on(
    objective: TrainScriptObjective,
    runner: type[FakeRunner],
    storage: BaseStorage,
    outcome: Outcome,
) -> None:
    runner.behaviour = lambda run: failed(outcome)
    study = new_study(storage)
    study.optimize(objective, n_trials=2)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.value == FAILURE_BPB
        assert trial.user_attrs[OUTCOME_KEY] == outcome.value
        assert trial.user_attrs[REASON_KEY] == f"it ended as {outcome.value}"
        assert trial.constraints == {RAN_CONSTRAINT: 1.0}


def test_an_edit_that_cannot_be_written_is_invalid(
    objective: TrainScriptObjective, runner: type[FakeRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(params: Any) -> str:
        raise ValueError("DECAY cannot be written")

    monkeypatch.setattr(objective.script, "render", refuse)
    study = new_study()
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.value == FAILURE_BPB
    assert trial.user_attrs[OUTCOME_KEY] == "invalid_edit"
    assert trial.user_attrs[REASON_KEY] == "DECAY cannot be written"
    assert trial.user_attrs[SANDBOX_KEY] == "none"
    assert trial.user_attrs[ISOLATED_KEY] is False
    assert trial.constraints == {RAN_CONSTRAINT: 1.0}
    assert runner.runs == []


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_score_that_is_not_finite_is_a_crash(
    objective: TrainScriptObjective, runner: type[FakeRunner], score: float | None
) -> None:
    runner.behaviour = lambda run: measured(score)
    study = new_study()
    study.optimize(objective, n_trials=1)
    assert study.trials[0].value == FAILURE_BPB
    assert study.trials[0].user_attrs[OUTCOME_KEY] == "crash"


def test_every_completed_score_is_better_than_every_failure(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    runner.behaviour = lambda run: measured(12.5)
    study = new_study()
    study.optimize(objective, n_trials=1)
    assert study.trials[0].value == COMPLETED_BPB_CAP < FAILURE_BPB
    assert study.trials[0].user_attrs[OUTCOME_KEY] == "complete"


def test_the_runner_is_told_what_would_be_the_best_of_the_study(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    results = iter([measured(3.0), failed(Outcome.CRASH), measured(2.0), measured(2.5)])
    runner.behaviour = lambda run: next(results)
    new_study().optimize(objective, n_trials=4)
    assert runner.told_best == [math.inf, 3.0, 3.0, 2.0]


def test_a_pruned_trial(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    runner.behaviour = lambda run: measured(curve=[(5, 4.0), (10, 6.0), (15, 3.0)])
    study = new_study(storage, pruner=optuna.pruners.ThresholdPruner(upper=5.0))
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {5: 4.0, 10: 6.0}
    assert trial.user_attrs[OUTCOME_KEY] == "pruned"
    assert trial.constraints == {RAN_CONSTRAINT: -1.0}


def test_the_baseline_is_never_pruned(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    runner.behaviour = lambda run: measured(curve=[(5, 6.0), (10, 6.0)])
    study = new_study(pruner=optuna.pruners.ThresholdPruner(upper=5.0))
    objective.enqueue_baseline(study)
    study.optimize(objective, n_trials=2)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_long_reasons_and_odd_figures_fit_into_any_database(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    curve = [(p, math.nan if p == 3 else 1 / 3) for p in range(1, 101)]
    runner.behaviour = lambda run: measured(None, Outcome.CRASH, reason="x" * 90_000, curve=curve)
    study = new_study(storage)
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    for value in (*trial.user_attrs.values(), *trial.system_attrs.values()):
        # The strict form of JSON: PostgreSQL takes no NaN.
        assert len(json.dumps(value, allow_nan=False)) < 60_000
    assert trial.system_attrs[CURVE_KEY][2] == [3, None]


def test_an_error_that_is_not_the_edits_keeps_its_traceback(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    runner.behaviour = lambda run: ZeroDivisionError("a bug")
    study = new_study()
    with pytest.raises(ZeroDivisionError):
        study.optimize(objective, n_trials=1)


# Edits that ran before


def test_an_edit_runs_once_and_its_score_is_reused(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    study = new_study(storage)
    for _ in range(3):
        study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=3)
    assert len(runner.runs) == 1
    assert [t.value for t in study.trials] == [0.45, 0.45, 0.45]
    assert [t.user_attrs.get(REUSED_FROM_KEY) for t in study.trials] == [None, 0, 0]
    assert {t.user_attrs[OUTCOME_KEY] for t in study.trials} == {"complete"}
    assert all(t.constraints == {RAN_CONSTRAINT: -1.0} for t in study.trials)


def test_a_failure_is_reused_too(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    runner.behaviour = lambda run: failed(Outcome.OOM)
    study = new_study()
    for _ in range(2):
        study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=2)
    assert len(runner.runs) == 1
    assert [t.value for t in study.trials] == [FAILURE_BPB, FAILURE_BPB]
    assert study.trials[1].user_attrs[OUTCOME_KEY] == "oom"
    assert study.trials[1].user_attrs[REASON_KEY] == "it ended as oom"
    assert study.trials[1].user_attrs[REUSED_FROM_KEY] == 0
    assert study.trials[1].constraints == {RAN_CONSTRAINT: 1.0}


def test_an_edit_that_was_pruned_runs_again(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    runner.behaviour = lambda run: measured(curve=[(5, 6.0)])
    study = new_study(pruner=optuna.pruners.ThresholdPruner(upper=5.0))
    study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=1)
    runner.behaviour = lambda run: measured(1.5, curve=[(5, 2.0)])
    study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=1)
    assert len(runner.runs) == 2
    assert study.trials[1].value == 1.5
    assert REUSED_FROM_KEY not in study.trials[1].user_attrs


def test_another_study_does_not_lend_its_scores(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    for name in "ab":
        study = optuna.create_study(study_name=name, storage=None)
        study.enqueue_trial(EDIT)
        study.optimize(objective, n_trials=1)
    assert len(runner.runs) == 2


# The baseline


def test_trial_0_is_the_unmodified_script(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    study = new_study(storage)
    objective.enqueue_baseline(study)
    objective.enqueue_baseline(study)  # waiting
    assert len(study.trials) == 1
    study.optimize(objective, n_trials=2)
    objective.enqueue_baseline(study)  # complete
    assert baselines(study) == [0]
    assert study.trials[0].params == objective.script.defaults()
    assert runner.runs[0] == {"LEARNING_RATE": 0.1, "DECAY": 0.5}
    assert len(study.trials) == 2


def test_a_running_baseline_is_not_enqueued_again(objective: TrainScriptObjective) -> None:
    study = new_study()
    objective.enqueue_baseline(study)
    study.ask()
    objective.enqueue_baseline(study)
    assert len(study.trials) == 1


def test_unmodified_params_are_recognised_as_baseline_and_reused(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    study = new_study()
    study.enqueue_trial(objective.script.defaults())
    objective.enqueue_baseline(study)
    study.optimize(objective, n_trials=2)
    assert baselines(study) == [0, 1]
    assert len(runner.runs) == 1
    assert study.trials[1].user_attrs[REUSED_FROM_KEY] == 0


def test_of_baselines_enqueued_together_one_runs(
    objective: TrainScriptObjective,
    runner: type[FakeRunner],
    storage: BaseStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = new_study(storage)
    with monkeypatch.context() as blind:  # neither worker sees what the other one is about to do
        blind.setattr(study, "get_trials", lambda **kwargs: [])
        objective.enqueue_baseline(study)
        objective.enqueue_baseline(study)
    assert len(study.trials) == 2
    elsewhere = study.ask()
    assert elsewhere.number == 0
    study.optimize(objective, n_trials=1)
    assert runner.runs == []
    assert study.trials[1].state == TrialState.FAIL
    assert OUTCOME_KEY not in study.trials[1].user_attrs
    assert objective(elsewhere) == pytest.approx(0.6)
    assert len(runner.runs) == 1


def test_a_trial_that_two_workers_took_from_the_queue_runs_once(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    study = new_study(storage)
    objective.enqueue_baseline(study)
    ours = study.ask()
    theirs = {**worker_record(), "pid": os.getppid(), "trial": 0}
    theirs["started"] = machine._start_time(os.getppid())
    study._storage.set_trial_system_attr(ours._trial_id, WORKER_KEY, theirs)
    study.tell(ours, objective(ours))
    assert [t.state.name for t in study.trials] == ["RUNNING", "COMPLETE"]
    assert study.trials[0].system_attrs[WORKER_KEY] == theirs
    assert len(runner.runs) == 1
    assert runner.runs[0] == study.trials[1].params != objective.script.defaults()


# The machine


def test_what_the_machine_did_is_no_outcome_and_the_edit_runs_once_more(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    results: list[Any] = [FAULT, measured(1.5)]
    runner.behaviour = lambda run: results.pop(0)
    study = new_study(storage)
    study.enqueue_trial(EDIT, user_attrs={"memo": "mine"})
    study.optimize(objective, n_trials=2)
    lost, again = study.trials
    assert lost.state == TrialState.FAIL
    assert OUTCOME_KEY not in lost.user_attrs
    assert lost.constraints == {}
    assert again.value == 1.5
    assert again.params == lost.params == EDIT
    assert again.user_attrs[RETRY_OF_KEY] == 0
    assert again.user_attrs["memo"] == "mine"


def test_three_machine_faults_in_a_row_end_the_run(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    runner.behaviour = lambda run: FAULT
    study = new_study(storage)
    objective.enqueue_baseline(study)
    with pytest.raises(RuntimeError, match=r"the disk that holds /tmp is full\): look at free"):
        study.optimize(objective, n_trials=9)
    # The baseline, its second and last go, and another edit that waits for its second.
    assert len(runner.runs) == 3
    assert runner.runs[0] == runner.runs[1] != runner.runs[2]
    assert [t.state.name for t in study.trials] == ["FAIL", "FAIL", "FAIL", "WAITING"]
    assert [t.user_attrs.get(SANDBOX_KEY) for t in study.trials] == ["none"] * 3 + [None]
    assert baselines(study) == [0, 1]
    # A baseline that was given up is enqueued by the next run.
    objective.enqueue_baseline(study)
    assert baselines(study) == [0, 1, 4]


def test_machine_faults_with_a_run_between_them_do_not_end_the_study(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    results: list[Any] = [FAULT, FAULT, measured(), FAULT, FAULT, measured()]
    runner.behaviour = lambda run: results.pop(0)
    study = new_study()
    study.optimize(objective, n_trials=6)
    assert len(runner.runs) == 6


def test_trials_that_ran_nothing_do_not_interrupt_a_row_of_faults(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    study = new_study()
    study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=1)
    runner.behaviour = lambda run: FAULT
    for i in range(3):
        study.enqueue_trial({"LEARNING_RATE": 0.3 + i / 100, "DECAY": 0.25})
        study.enqueue_trial(EDIT)
    with pytest.raises(RuntimeError, match="3 trials in a row"):
        study.optimize(objective, n_trials=9)
    assert len(runner.runs) == 4


def test_the_faults_of_another_machine_do_not_end_this_run(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    study = new_study()
    for _ in range(5):
        worker = {**worker_record(), "host": "broken", "machine": "broken"}
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL,
                system_attrs={WORKER_KEY: worker, MEASUREMENT_KEY: {"machine_fault": "x"}},
            )
        )
    results: list[Any] = [FAULT, FAULT, measured()]
    runner.behaviour = lambda run: results.pop(0)
    study.optimize(objective, n_trials=3)
    assert study.trials[-1].state == TrialState.COMPLETE


def test_ctrl_c_ends_the_run_and_the_edit_runs_in_the_next(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    runner.behaviour = lambda run: KeyboardInterrupt()
    study = new_study(storage)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=5)
    assert [t.state.name for t in study.trials] == ["FAIL", "WAITING"]
    runner.behaviour = lambda run: measured(1.5)
    study.optimize(objective, n_trials=1)
    assert study.trials[1].params == study.trials[0].params
    assert study.trials[1].value == 1.5


def test_a_baseline_that_was_interrupted_stays_one(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    runner.behaviour = lambda run: KeyboardInterrupt()
    study = new_study()
    objective.enqueue_baseline(study)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=1)
    objective.enqueue_baseline(study)
    runner.behaviour = lambda run: measured(1.5)
    study.optimize(objective, n_trials=1)
    assert baselines(study) == [0, 1]
    assert study.trials[1].value == 1.5


# Workers that were killed


def start_elsewhere(
    objective: TrainScriptObjective, study: optuna.Study, worker: dict[str, Any] | None
) -> None:
    """Start a trial of `EDIT` as a worker described by `worker` would."""
    study.enqueue_trial(EDIT)
    trial = study.ask({name: slot.distribution for name, slot in objective.script.active.items()})
    if worker is not None:
        study._storage.set_trial_system_attr(trial._trial_id, WORKER_KEY, worker)


DEAD = {**worker_record(), "started": 1}


def test_the_trial_of_a_dead_worker_is_ended_and_its_edit_runs(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    study = new_study(storage)
    start_elsewhere(objective, study, {**DEAD, "trial": 0})
    objective.enqueue_baseline(study)
    study.optimize(objective, n_trials=2)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == EDIT
    assert study.trials[1].user_attrs[RETRY_OF_KEY] == 0
    assert baselines(study) == [2]


@pytest.mark.parametrize(
    "worker",
    [
        None,  # another program's trial
        worker_record(),  # a living one
        {**DEAD, "host": "another"},
        {**DEAD, "namespace": 1},
        {**DEAD, "trial": 7},  # a copy that a living worker has just taken
    ],
)
def test_trials_of_living_and_foreign_workers_are_left_alone(
    objective: TrainScriptObjective, worker: dict[str, Any] | None
) -> None:
    study = new_study()
    start_elsewhere(objective, study, worker)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.RUNNING
    assert len(study.trials) == 2


def test_an_edit_that_killed_its_worker_twice_is_given_up(
    objective: TrainScriptObjective, target: Path
) -> None:
    study = new_study()
    start_elsewhere(objective, study, {**DEAD, "trial": 0})
    objective.enqueue_baseline(study)
    again = study.ask()
    assert again.number == 1
    study._storage.set_trial_system_attr(again._trial_id, WORKER_KEY, {**DEAD, "trial": 1})
    TrainScriptObjective(target, profile="cpu").enqueue_baseline(study)
    assert [t.state.name for t in study.trials] == ["FAIL", "FAIL", "WAITING"]
    assert baselines(study) == [2]


def run_and_die(target: Path, url: str) -> None:
    FakeRunner.behaviour = staticmethod(lambda run: os._exit(9))
    objective_module.TrialRunner.behaviour = FakeRunner.behaviour  # type: ignore[attr-defined]
    objective = TrainScriptObjective(target, profile="cpu")
    study = optuna.load_study(storage=url, study_name="s", sampler=RandomSampler(seed=0))
    objective.enqueue_baseline(study)
    study.optimize(objective, n_trials=1)


def test_a_killed_process_loses_no_edit(
    target: Path, tmp_path: Path, runner: type[FakeRunner]
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    new_study(url)
    process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(target, url))
    process.start()
    process.join()
    assert process.exitcode == 9
    study = optuna.load_study(storage=url, study_name="s")
    assert [t.state.name for t in study.trials] == ["RUNNING"]
    objective = TrainScriptObjective(target, profile="cpu")
    objective.enqueue_baseline(study)
    study.optimize(objective, n_trials=1)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]
    assert baselines(study) == [0, 1]
    assert study.trials[1].params == objective.script.defaults()


# The manifest


def test_another_budget_is_refused_before_a_trial_starts(target: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = new_study(url)
    study.optimize(TrainScriptObjective(target, profile="cpu"), n_trials=1)
    other = TrainScriptObjective(target, profile="cpu", budget_seconds=77)
    study = optuna.load_study(storage=url, study_name="s")
    with pytest.raises(ManifestMismatch, match=r"profile\.budget_seconds: .* → 77\.0"):
        other.enqueue_baseline(study)
    assert len(study.trials) == 1


def test_another_target_is_refused(target: Path) -> None:
    study = new_study()
    TrainScriptObjective(target, profile="cpu").enqueue_baseline(study)
    target.write_text(TARGET.replace("0.5", "0.6"))
    with pytest.raises(ManifestMismatch, match="target: "):
        TrainScriptObjective(target, profile="cpu").enqueue_baseline(study)


def test_workers_with_equal_manifests_share_a_study(target: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    new_study(url)
    for _ in range(2):
        study = optuna.load_study(storage=url, study_name="s", sampler=RandomSampler())
        study.optimize(TrainScriptObjective(target, profile="cpu"), n_trials=1)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"]


def test_a_trial_does_not_complete_under_a_manifest_that_is_not_its_own(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    study = new_study()

    def win_the_race(run: Any) -> Measurement:
        attrs = study._storage.get_study_system_attrs(study._study_id)
        other = {**attrs[MANIFEST_KEY], "device": "Another"}
        study._storage.set_study_system_attr(study._study_id, MANIFEST_KEY, other)
        return measured()

    runner.behaviour = win_the_race
    with pytest.raises(ManifestMismatch, match="device: Another → "):
        study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.FAIL


def test_a_study_deleted_and_made_anew_starts_fresh(
    objective: TrainScriptObjective, runner: type[FakeRunner], tmp_path: Path
) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db")
    for _ in range(2):
        study = new_study(storage)
        objective.enqueue_baseline(study)
        study.optimize(objective, n_trials=1)
        assert baselines(study) == [0]
        assert MANIFEST_KEY in study._storage.get_study_system_attrs(study._study_id)
        assert records.load_source(study, study.trials[0]) == TARGET
        optuna.delete_study(study_name="s", storage=storage)
    assert len(runner.runs) == 2


# What people see


def test_artifacts_are_found_from_the_storage_url_alone(
    objective: TrainScriptObjective, storage: BaseStorage
) -> None:
    study = new_study(storage)
    study.enqueue_trial(EDIT)
    study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=2)
    loaded = optuna.load_study(storage=storage, study_name="s")
    for trial in loaded.trials:  # the second was not run: it shows the files of the first
        source = records.load_source(loaded, trial)
        assert "LEARNING_RATE = 0.2 " in source and "DECAY = 0.25 " in source
        diff = records.artifact_text(loaded, trial, "train.diff")
        assert "-DECAY = 0.5 " in diff and "+DECAY = 0.25 " in diff
        assert records.artifact_text(loaded, trial, "train.log") == "hello\n"
        assert records.artifact_text(loaded, trial, "curve.csv") == (
            "percent,train_bpb\n5,4.00000\n10,3.00000\n"
        )


def test_the_note_shows_the_diff(objective: TrainScriptObjective, storage: BaseStorage) -> None:
    study = new_study(storage)
    objective.enqueue_baseline(study)
    study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=2)
    trial = optuna.trial.Trial(study, study.trials[1]._trial_id)
    text = get_note(trial)
    assert "-0.1500 against the baseline" in text
    assert "| DECAY | 0.5 | 0.25 |" in text
    assert "```diff\n" in text
    assert "+DECAY = 0.25 " in text
    assert len(text.encode()) <= 2000


def test_a_trial_does_not_fail_because_its_files_cannot_be_kept(
    target: Path, tmp_path: Path
) -> None:
    class FullDisk(FileSystemArtifactStore):
        def write(self, artifact_id: str, content_body: Any) -> None:
            raise OSError("No space left on device")

    store = FullDisk(tmp_path / "full")
    objective = TrainScriptObjective(target, profile="cpu", artifact_store=store)
    study = new_study()
    study.enqueue_trial(EDIT)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].value == pytest.approx(0.45)
    assert study.trials[0].user_attrs[OUTCOME_KEY] == "complete"


# Samplers, threads, processes


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: TPESampler(seed=0, n_startup_trials=3),
        lambda: CmaEsSampler(seed=0, n_startup_trials=2),
        lambda: GPSampler(seed=0, n_startup_trials=4),
        lambda: RandomSampler(seed=0),
    ],
    ids=["tpe", "cmaes", "gp", "random"],
)
def test_any_sampler_drives_it_through_every_outcome(
    objective: TrainScriptObjective,
    runner: type[FakeRunner],
    storage: BaseStorage,
    sampler: Callable[[], BaseSampler],
) -> None:
    outcomes = [
        measured(1.5),
        failed(Outcome.OOM),
        FAULT,
        measured(1.4),
        measured(curve=[(5, 6.0)]),
    ]
    runner.behaviour = lambda run: outcomes[(len(runner.runs) - 1) % len(outcomes)]
    study = new_study(storage, sampler=sampler(), pruner=optuna.pruners.ThresholdPruner(upper=5.0))
    objective.enqueue_baseline(study)
    study.enqueue_trial(objective.script.defaults())  # reused
    study.optimize(objective, n_trials=11)
    assert len(study.trials) >= 11
    assert all(RAN_CONSTRAINT in t.constraints for t in study.trials if t.value is not None)
    assert {t.user_attrs.get(OUTCOME_KEY) for t in study.trials} >= {"complete", "oom", "pruned"}


def test_threads_share_one_objective(
    objective: TrainScriptObjective, runner: type[FakeRunner], storage: BaseStorage
) -> None:
    study = new_study(storage)
    objective.enqueue_baseline(study)
    study.optimize(objective, n_trials=8, n_jobs=2)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 8
    assert len(runner.runs) == 8


def test_pickles_after_use(objective: TrainScriptObjective, target: Path) -> None:
    study = new_study()
    objective.enqueue_baseline(study)
    data = pickle.dumps(objective)
    target.unlink()
    copied = pickle.loads(data)
    study.optimize(copied, n_trials=2)
    assert baselines(study) == [0]
    assert copied.script.source == TARGET


def test_measure_repeats_parameters_outside_a_study(
    objective: TrainScriptObjective, runner: type[FakeRunner]
) -> None:
    assert objective.measure({"DECAY": 0.25}, seed=3).val_bpb == pytest.approx(0.35)
    assert objective.measure(None, seed=4).val_bpb == pytest.approx(0.6)
    assert runner.seeds == [3, 4]
    with pytest.raises(ValueError, match="has no active slot MOMENTUM"):
        objective.measure({"MOMENTUM": 0.9}, seed=5)
