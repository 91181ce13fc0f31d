"""How an edit becomes the value of a trial."""

from __future__ import annotations

import ast
from collections.abc import Collection
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
import math
from pathlib import Path
import threading
import time
from typing import Any
from typing import TYPE_CHECKING
import warnings
import weakref

from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.exceptions import TrialPruned
from optuna.logging import get_logger
from optuna.study import StudyDirection
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective import machine
from optuna_arrl.objective import records
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.machine import worker_is_gone
from optuna_arrl.objective.machine import worker_record
from optuna_arrl.objective.manifest import check_manifest
from optuna_arrl.objective.manifest import make_manifest
from optuna_arrl.objective.manifest import study_reference_seconds
from optuna_arrl.objective.requeue import enqueue
from optuna_arrl.objective.requeue import fail_orphans
from optuna_arrl.objective.requeue import one_at_a_time
from optuna_arrl.objective.requeue import requeue
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.objective.sandbox import check_platform
from optuna_arrl.objective.sandbox import SANDBOXES
from optuna_arrl.script import normalised_hash
from optuna_arrl.script import Script
from optuna_arrl.script import unified_diff
from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import COMPLETED_BPB_CAP
from optuna_arrl.trajectory import CURVE_KEY
from optuna_arrl.trajectory import EDIT_HASH_KEY
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import ISOLATED_KEY
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


if TYPE_CHECKING:
    from optuna import Study
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from optuna_arrl.objective.runner import Measurement


__all__ = ["TrainScriptObjective"]

_DEFAULT_TARGET = Path(__file__).parents[1] / "target" / "train.py"
_ENVIRONMENT_SEED = 0  # of every trial of a study: edits compete on equal terms
_FAULTS_IN_A_ROW = 3
_FAULT = "machine_fault"  # in MEASUREMENT_KEY of a trial that the machine failed
_REASON_CHARACTERS = 500

_logger = get_logger(f"optuna.{__name__}")
_LONGEST_BUDGET = 604_800  # seconds


@dataclass(frozen=True)
class _Environment:
    """What is needed to measure, made at first use."""

    runner: TrialRunner
    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What is known of an edit, whether it ran now, ran before or cannot run."""

    outcome: Outcome
    val_bpb: float | None = None
    reason: str = ""
    sandbox: str | None = None  # this and the next: where another trial ran it
    isolated: bool | None = None
    source: str | None = None
    measurement: Measurement | None = None
    reused_from: int | None = None

    @property
    def value(self) -> float:
        """Value of the trial in Optuna, in bits per byte."""
        if self.outcome != Outcome.COMPLETE:
            return FAILURE_BPB
        assert self.val_bpb is not None
        return min(self.val_bpb, COMPLETED_BPB_CAP)


class TrainScriptObjective:
    """An objective that edits a training script, runs it under a budget and scores the result.

    Every active slot of the script (a constant in capitals, or a literal marked ``# arrl:``) is
    suggested as a parameter, so any Optuna sampler can drive it. The value is the validation
    loss in bits per byte, measured by another process than the one that trained. An edit that
    fails, whatever it did, gives :data:`~optuna_arrl.trajectory.FAILURE_BPB` and a violated
    constraint; the user attribute ``arrl:outcome`` says what happened. An edit that ran before
    in the study is not run again, its score is used again and marked ``arrl:reused_from``.

    What the machine did is not held against an edit: when no box can start or a device is lost,
    the trial fails in Optuna's sense (``TrialState.FAIL``) and its edit is enqueued once more.
    So it is with the trials of a process of this machine that was killed, when the next one
    opens the study.

    Args:
        target:
            The training script. By default the one that comes with this package.
        profile:
            ``"cpu"`` or ``"gpu"``: sizes, budget and device (see
            :data:`optuna_arrl.frozen_env.profiles.PROFILES`). By default ``"gpu"`` where an
            NVIDIA device is found.
        budget_seconds:
            Seconds that each trial may train. By default the profile's. On a CPU they pass as
            work could be done: where the machine is busy a trial takes longer.
        activate:
            Names of further literals of the script to be searched.
        corpus:
            Folder of ``.txt`` files to train on. By default the corpus of this package.
        sandbox:
            What keeps edited code from the machine: ``"bubblewrap"``, ``"landlock"``, or
            ``"auto"``, the first of these that holds here. ``"none"``, for scripts that you
            would run yourself, is never taken unless named, and then every trial says
            ``arrl:isolated = false``.
        artifact_store:
            Where edited scripts, diffs, logs and curves are kept. By default a folder beside an
            SQLite or journal file, else in the cache folder; the study records which.

    Boxes for the next trial are started ahead of their use; :meth:`close` ends those that wait,
    and so does the end of the process.

    Raises:
        ValueError:
            When the target is no Python script with ``build_model`` and ``train``, or an argument
            is out of range.
        SandboxUnavailable:
            When this is not Linux.

    Example:

        .. code-block:: python

            import optuna
            from optuna_arrl import ARRLSampler
            from optuna_arrl import TrainScriptObjective

            objective = TrainScriptObjective()
            study = optuna.create_study(
                storage="sqlite:///study.db",
                sampler=ARRLSampler(),
                pruner=optuna.pruners.NopPruner(),  # the default judges by training loss
            )
            objective.enqueue_baseline(study)
            study.optimize(objective, n_trials=24)
    """

    def __init__(
        self,
        target: str | Path | None = None,
        *,
        profile: str | None = None,
        budget_seconds: float | None = None,
        activate: Collection[str] = (),
        corpus: str | Path | None = None,
        sandbox: str = "auto",
        artifact_store: ArtifactStore | None = None,
    ) -> None:
        check_platform()
        if sandbox not in SANDBOXES:
            raise ValueError(
                f"`sandbox` must be one of {', '.join(SANDBOXES)}, but got {sandbox!r}."
            )
        if profile is None:
            profile = machine.default_profile()
        if profile not in PROFILES:
            raise ValueError(f"`profile` must be one of {', '.join(PROFILES)}, but got {profile}.")
        self._profile = PROFILES[profile]
        if self._profile.device == "cuda" and not machine.has_nvidia():
            raise ValueError(
                f"The profile '{profile}' needs an NVIDIA device, and this machine shows none: "
                "take the profile 'cpu'."
            )
        if budget_seconds is None:
            budget_seconds = self._profile.budget_seconds
        if not 1 <= budget_seconds <= _LONGEST_BUDGET:
            raise ValueError(
                f"`budget_seconds` must be 1 or more, and {_LONGEST_BUDGET} (a week) at most, but "
                f"got {budget_seconds}."
            )
        self._profile = replace(self._profile, budget_seconds=float(budget_seconds))
        self.target = Path(target) if target is not None else _DEFAULT_TARGET
        self.script = Script(_read_target(self.target), activate=activate)
        self._activate = tuple(activate)
        self._corpus = corpus
        self._sandbox = sandbox
        self._artifact_store = artifact_store
        self._forget_process()

    def _forget_process(self) -> None:
        """(Re)set what belongs to one process and is not pickled."""
        self._lock = threading.Lock()  # with n_jobs > 1 threads share this object
        self._environment: _Environment | None = None
        self._opened: weakref.WeakKeyDictionary[BaseStorage, dict[int, ArtifactStore]]
        self._opened = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_environment", "_opened", "script")
        state = {k: v for k, v in self.__dict__.items() if k not in left_out}
        return {**state, "_source": self.script.source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        source = state.pop("_source")
        self.__dict__.update(state)
        self.script = Script(source, activate=self._activate)
        self._forget_process()

    def __call__(self, trial: Trial) -> float:
        """Suggest every active slot, run the edited script and return its score.

        Args:
            trial:
                A running trial of a single-objective, minimising study.

        Returns:
            Validation loss in bits per byte, at most 7.9;
            :data:`~optuna_arrl.trajectory.FAILURE_BPB` for an edit that failed; NaN when the
            machine failed.

        Raises:
            optuna.TrialPruned:
                The study's pruner stopped the trial.
            ValueError:
                The study is not of one minimised objective, the script has no active slot, or the
                study was made under other conditions
                (:class:`~optuna_arrl.objective.manifest.ManifestMismatch`).
            RuntimeError:
                The machine failed three trials in a row.
        """
        if not isinstance(trial, Trial):
            raise TypeError(
                "TrainScriptObjective runs trials of a study; "
                "use its method `measure(params, seed=...)` to run parameters again."
            )
        started = time.monotonic()
        study = trial.study
        try:
            _claim(trial)
            store = self._open(study)
            sandbox = self._ready().runner.sandbox
            # At once: whatever becomes of the trial, it says what it was to run in.
            trial.set_user_attr(SANDBOX_KEY, sandbox.name)
            trial.set_user_attr(ISOLATED_KEY, sandbox.isolated)
            if _is_superfluous_baseline(study, study._storage.get_trial(trial._trial_id)):
                _logger.warning(f"Trial {trial.number} ends: another worker has the baseline.")
                return math.nan
            params = {
                name: _suggest(trial, name, slot.distribution)
                for name, slot in self.script.active.items()
            }
            return self._evaluate(trial, params, store, started)
        except KeyboardInterrupt:  # the boxes are gone already
            requeue(study, study._storage.get_trial(trial._trial_id))
            raise

    def enqueue_baseline(self, study: Study) -> None:
        """Enqueue the unmodified script, so that a new study's trial 0 is the baseline.

        Does nothing when the study has it waiting, running or complete. Workers on several
        machines that call this at the same moment may each add one: of these the first runs, the
        others end as ``FAIL`` without an outcome.

        Args:
            study:
                The study that is about to be optimised with this objective.

        Raises:
            ValueError:
                As for a call of the objective.
        """
        self._open(study)
        with one_at_a_time(study):
            if not any(
                _is_baseline(trial) and trial.state != TrialState.FAIL
                for trial in study.get_trials(deepcopy=False)
            ):
                enqueue(study, self.script.defaults(), system_attrs={BASELINE_KEY: True})

    def measure(self, params: Mapping[str, Any] | None = None, *, seed: int) -> Measurement:
        """Run parameters once, outside any study.

        Args:
            params:
                Values of active slots, as in a trial's ``params``; those left out keep their
                value. :obj:`None` is the unmodified script.
            seed:
                The environment's seed. Trials of a study use 0.

        Returns:
            What was measured.

        Raises:
            ValueError:
                A parameter is unknown or its value cannot be written into the script.
            MachineFault:
                The machine failed the run.
        """
        params = dict(params or {})
        unknown = params.keys() - self.script.active.keys()
        if unknown:
            raise ValueError(f"{self.target} has no active slot {', '.join(sorted(unknown))}.")
        return self._ready().runner.run(self.script.render(params), seed=seed)

    def get_ready(self) -> None:
        """Prepare the corpus and try the sandbox now, instead of with the first trial.

        Whatever would keep every trial from running here is raised, before there is a study.

        Raises:
            CorpusError:
                The corpus cannot be used.
            FrozenSetChanged:
                What was prepared from it is damaged.
            SandboxUnavailable:
                No sandbox holds on this machine.
            MachineFault:
                The speed of this machine could not be measured.
            OSError:
                The cache cannot be written.
        """
        self._ready()

    def close(self) -> None:
        """End the boxes that wait for a next trial. The objective can still be used."""
        with self._lock:
            if self._environment is not None:
                self._environment.runner.close()

    def _ready(self) -> _Environment:
        with self._lock:
            if self._environment is None:
                prepared = prepare(self._profile, corpus=self._corpus)
                runner = TrialRunner(prepared, sandbox=self._sandbox)
                manifest = make_manifest(
                    prepared, self.script.source, reference_seconds=runner.reference_seconds
                )
                self._environment = _Environment(runner, manifest)
            return self._environment

    def _open(self, study: Study) -> ArtifactStore:
        """Check that trials of this study may run here, and return where artifacts go.

        The first time in a process, trials that a dead one left are recovered.
        """
        if study.directions != [StudyDirection.MINIMIZE]:
            raise ValueError(
                "TrainScriptObjective returns one loss: create the study with one objective and "
                "direction='minimize'."
            )
        if not self.script.active:
            raise ValueError(
                f"{self.target} has nothing to search: mark a literal with an `# arrl:` comment, "
                "or name one in `activate`."
            )
        manifest = self._ready().manifest
        with self._lock, one_at_a_time(study):
            stores = self._opened.setdefault(study._storage, {})
            # A study without manifest is a new one, even under an id that was open before: SQLite
            # gives the id of a deleted study to the next.
            known = check_manifest(study, manifest)
            if not known or study._study_id not in stores:
                stores[study._study_id] = records.open_artifact_store(study, self._artifact_store)
                fail_orphans(study)
            return stores[study._study_id]

    def _evaluate(
        self, trial: Trial, params: dict[str, Any], store: ArtifactStore, started: float
    ) -> float:
        study = trial.study
        try:
            source = self.script.render(params)
        except ValueError as error:  # InvalidScript among them
            result = _Result(outcome=Outcome.INVALID_EDIT, reason=str(error))
            return self._finish(trial, result, params, store, started)
        edit = normalised_hash(source)
        trial.set_user_attr(EDIT_HASH_KEY, edit)
        is_baseline = edit == normalised_hash(self.script.source)
        if is_baseline:
            _set_system_attr(trial, BASELINE_KEY, True)
        earlier = _result_of(study, edit)
        if earlier is not None:
            return self._finish(trial, earlier, params, store, started)

        def on_curve(percent: int, bpb: float) -> bool:
            trial.report(bpb, percent)
            # Every comparison needs the baseline's score, so it runs to its end.
            return not is_baseline and trial.should_prune()

        try:
            runner = self._ready().runner
            best = _scores(study)[1]
            measurement = runner.run(
                source,
                seed=_ENVIRONMENT_SEED,
                on_curve=on_curve,
                best_so_far=math.inf if best is None else best,
                reference_seconds=study_reference_seconds(study),
            )
        except MachineFault as fault:
            return self._lose(trial, fault)
        # Another process that started together with this one may have won the study.
        check_manifest(study, self._ready().manifest)
        result = _result_from(measurement, source)
        return self._finish(trial, result, params, store, started)

    def _lose(self, trial: Trial, fault: MachineFault) -> float:
        """Note what the machine did, put the edit back, and say NaN: FAIL in Optuna."""
        study = trial.study
        _set_system_attr(trial, MEASUREMENT_KEY, {_FAULT: str(fault)[:_REASON_CHARACTERS]})
        again = requeue(study, study._storage.get_trial(trial._trial_id))
        _logger.warning(
            f"The machine failed trial {trial.number}: {_clause(fault)}; its edit is "
            + ("enqueued once more." if again else "given up.")
        )
        if _faults_before(study) + 1 >= _FAULTS_IN_A_ROW:
            raise RuntimeError(
                f"{_FAULTS_IN_A_ROW} trials in a row failed for a reason that is not in their "
                f"edits (the last one: {_clause(fault)}): look at free disk space and memory, "
                "at the GPU if there is one, and at `arrl doctor`, then run again."
            ) from fault
        return math.nan

    def _finish(
        self,
        trial: Trial,
        result: _Result,
        params: dict[str, Any],
        store: ArtifactStore,
        started: float,
    ) -> float:
        """Write down everything about a trial, which its end makes final, and end it."""
        ran = result.outcome in (Outcome.COMPLETE, Outcome.PRUNED)
        self._leave_records(trial, result, params, store)
        if result.measurement is not None:
            _write_measurement(trial, result.measurement)
        attrs: dict[str, Any] = {
            OUTCOME_KEY: result.outcome.value,
            REASON_KEY: result.reason[:_REASON_CHARACTERS] or None,
            VERIFIED_KEY: True,
            SANDBOX_KEY: result.sandbox,
            ISOLATED_KEY: result.isolated,
            REUSED_FROM_KEY: result.reused_from,
            SECONDS_KEY: round(time.monotonic() - started, 3),
        }
        for key, value in attrs.items():
            if value is not None:
                trial.set_user_attr(key, value)
        # GPSampler refuses a study in which a complete trial lacks a constraint that others have.
        trial.set_constraint(RAN_CONSTRAINT, -1.0 if ran else 1.0)
        if result.outcome == Outcome.PRUNED:
            raise TrialPruned(result.reason)
        return result.value

    def _leave_records(
        self, trial: Trial, result: _Result, params: dict[str, Any], store: ArtifactStore
    ) -> None:
        """Keep artifacts and a note; a trial must not fail because they cannot be written."""
        diff = ""
        if result.source is not None:
            diff = unified_diff(self.script.source, result.source, records.diff_path(self.target))
        try:
            if result.measurement is not None and result.source is not None:
                curve = records.curve_csv(result.measurement.curve)
                contents = {
                    records.SOURCE_NAME: result.source.encode("utf-8"),
                    records.DIFF_NAME: diff.encode("utf-8"),
                    records.LOG_NAME: result.measurement.log,
                    records.CURVE_NAME: curve,
                }
                records.save_artifacts(trial, store, contents)
            baseline, best = _scores(trial.study)
            note = records.note(
                result.outcome,
                val_bpb=result.val_bpb,
                reason=result.reason,
                baseline=baseline,
                best=best,
                reused_from=result.reused_from,
                changes=self._changes(params),
                diff=diff,
            )
            records.save_note(trial, note)
        except Exception as error:  # any store's errors, Optuna's and the disk's among them
            _logger.warning(f"Trial {trial.number} keeps no artifacts or note: {error!r}")

    def _changes(self, params: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        defaults = self.script.defaults()
        return [
            (slot.name, slot.default, slot.from_param(params[name]))
            for name, slot in self.script.active.items()
            if params[name] != defaults[name]
        ]


def _read_target(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"The target {path} is not a file.")
    try:
        source = path.read_bytes().decode("utf-8")  # not read_text: line ends stay as they are
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # the script's own affair
            tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise ValueError(f"The target {path} is not a Python script: {error}") from error
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    missing = [name for name in ("build_model", "train") if name not in functions]
    if missing:
        raise ValueError(f"The target {path} does not define {' and '.join(missing)}.")
    return source


def _claim(trial: Trial) -> None:
    """Write down that this thread runs a trial; make it a new one if another runs it already.

    Optuna takes waiting trials from an SQLite file in two steps, so that two processes may get
    the same one. Both would run it, and the second to end would die of an assertion in Optuna.
    """
    study, storage = trial.study, trial.storage
    mine = {**worker_record(), "thread": threading.get_ident()}
    with one_at_a_time(study):
        stored = storage.get_trial(trial._trial_id)
        claim = stored.system_attrs.get(WORKER_KEY, {})
        is_claimed = claim.get("trial") == trial.number and not worker_is_gone(claim)
        if stored.state.is_finished() or (is_claimed and claim != {**mine, "trial": trial.number}):
            Trial.__init__(trial, study, storage.create_new_trial(study._study_id))
        _set_system_attr(trial, WORKER_KEY, {**mine, "trial": trial.number})


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"No way to suggest {distribution}.")


def _result_from(measurement: Measurement, source: str) -> _Result:
    outcome, reason = measurement.outcome, measurement.reason
    if outcome == Outcome.COMPLETE and not _is_finite(measurement.val_bpb):
        outcome, reason = Outcome.CRASH, "the score is not finite"
    return _Result(
        outcome=outcome,
        val_bpb=measurement.val_bpb if outcome == Outcome.COMPLETE else None,
        reason=reason,
        source=source,
        measurement=measurement,
    )


def _result_of(study: Study, edit: str) -> _Result | None:
    """Return what the first trial that ran an edit came to, if one has run to its end.

    One that was pruned has no score to use again, so its edit may have another go.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        outcome = trial.user_attrs.get(OUTCOME_KEY)
        if trial.user_attrs.get(EDIT_HASH_KEY) != edit or outcome is None:
            continue
        completed = outcome == Outcome.COMPLETE.value
        return _Result(
            outcome=Outcome(outcome),
            val_bpb=trial.value if completed else None,
            reason=trial.user_attrs.get(REASON_KEY, ""),
            sandbox=trial.user_attrs.get(SANDBOX_KEY),
            isolated=trial.user_attrs.get(ISOLATED_KEY),
            reused_from=trial.user_attrs.get(REUSED_FROM_KEY, trial.number),
        )
    return None


def _write_measurement(trial: Trial, measurement: Measurement) -> None:
    _set_system_attr(
        trial,
        MEASUREMENT_KEY,
        {
            "seconds": {part: round(s, 3) for part, s in measurement.seconds.items()},
            "rate": round(measurement.rate, 4),
            "steps": measurement.steps,
            "leak": measurement.leak,
            "seed": _ENVIRONMENT_SEED,
        },
    )
    curve = [[p, round(bpb, 5) if _is_finite(bpb) else None] for p, bpb in measurement.curve]
    _set_system_attr(trial, CURVE_KEY, curve)
    trial.set_user_attr(TRAIN_SECONDS_KEY, round(measurement.seconds.get("train", 0.0), 3))
    trial.set_user_attr(MEMORY_KEY, round(measurement.peak_memory_bytes / 2**20, 1))


def _faults_before(study: Study) -> int:
    """Count the trials that this machine failed since it last carried one out.

    By machine, so that a broken one ends its own workers, and only these, however many sound
    ones work on the study.
    """
    here = worker_record()["machine"], worker_record()["host"]
    ended = study.get_trials(deepcopy=False)
    faults = 0
    for trial in sorted(ended, key=_end, reverse=True):
        worker = trial.system_attrs.get(WORKER_KEY, {})
        if not trial.state.is_finished() or (worker.get("machine"), worker.get("host")) != here:
            continue
        measurement = trial.system_attrs.get(MEASUREMENT_KEY)
        if measurement is None:
            continue  # interrupted, or nothing had to run: that says nothing about the machine
        if _FAULT not in measurement:
            break
        faults += 1
    return faults


def _end(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete is not None else 0.0


def _scores(study: Study) -> tuple[float | None, float | None]:
    """Return the scores of the baseline and of the best trial so far, in bits per byte."""
    scored = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.user_attrs.get(OUTCOME_KEY) == Outcome.COMPLETE.value
    ]
    baseline = next((trial.value for trial in scored if _is_baseline(trial)), None)
    best = min((trial.value for trial in scored if trial.value is not None), default=None)
    return baseline, best


def _is_baseline(trial: FrozenTrial) -> bool:
    return bool(trial.system_attrs.get(BASELINE_KEY))


def _is_superfluous_baseline(study: Study, trial: FrozenTrial) -> bool:
    """Tell of an enqueued baseline whether another one was enqueued before and has yet to end.

    Workers that start together may each find no baseline and enqueue one. Numbers are given out
    atomically, so of these the lowest runs. A baseline that was lost is not waited for.
    """
    lost = trial.user_attrs.get(RETRY_OF_KEY)
    return _is_baseline(trial) and any(
        other.number < trial.number and other.number != lost and _is_baseline(other)
        for other in study.get_trials(
            deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)
        )
    )


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _clause(fault: MachineFault) -> str:
    return str(fault).rstrip(".")


def _set_system_attr(trial: Trial, key: str, value: Any) -> None:
    trial.storage.set_trial_system_attr(trial._trial_id, key, value)
