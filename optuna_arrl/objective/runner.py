"""Runs one edited script under a budget and scores it: three boxes, watched from outside.

Box 1 trains and leaves its weights; box 2 answers the validation windows; box 3 answers truncated
prefixes of positions drawn after box 2 has ended. Each box is a process of its own, in a sandbox
and in fresh folders, held to its limits by a supervisor (``_supervisor.py``). What edited code
does becomes an outcome; what the machine does raises
:class:`~optuna_arrl.objective.boxes.MachineFault`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from dataclasses import dataclass
import os
from pathlib import Path
import shutil
import signal
import tempfile
import time
from typing import TypeVar

import numpy as np

from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.evaluation import draw_probe
from optuna_arrl.frozen_env.evaluation import validation_windows
from optuna_arrl.frozen_env.prepare import FrozenSetChanged
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective.boxes import BoxReport
from optuna_arrl.objective.boxes import GRACE_SECONDS
from optuna_arrl.objective.boxes import last_words
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.boxes import our_own
from optuna_arrl.objective.boxes import SupervisedBox
from optuna_arrl.objective.cores import CoreClaim
from optuna_arrl.objective.curve import Curve
from optuna_arrl.objective.manifest import measuring_sources
from optuna_arrl.objective.reference import machine_reference_seconds
from optuna_arrl.objective.sandbox import choose_sandbox
from optuna_arrl.objective.sandbox import Sandbox
from optuna_arrl.objective.scorer import answer_windows
from optuna_arrl.objective.scorer import Channel
from optuna_arrl.objective.scorer import ChannelClosed
from optuna_arrl.objective.scorer import credited_bits_per_byte
from optuna_arrl.objective.scorer import Leak
from optuna_arrl.objective.scorer import may_round
from optuna_arrl.objective.scorer import probe_leak
from optuna_arrl.objective.scorer import TooSlow
from optuna_arrl.objective.scorer import WrongAnswer
from optuna_arrl.objective.supply import box_limits
from optuna_arrl.objective.supply import BoxSupply
from optuna_arrl.objective.supply import StartedBox
from optuna_arrl.objective.weights import BadWeights
from optuna_arrl.objective.weights import check_finite
from optuna_arrl.objective.weights import copy_weights
from optuna_arrl.objective.weights import take_weights
from optuna_arrl.objective.weights import WEIGHTS
from optuna_arrl.trajectory import Outcome


__all__ = ["Measurement", "TrialRunner"]

_SCRIPT = "train.py"
_SOURCE_BYTES = 64 << 10
_CURVE_STEP = 5  # percent of the budget between two points that a pruner sees
_MIN_FREE_BYTES = 64 << 20
_EXIT_OUT_OF_MEMORY = 11
# Loading a model and answering one request may take this share of the budget: what is trained on
# in a scoring box is trained beyond it.
_ANSWER_SHARE = 0.1
_ANSWER_SECONDS = 1.0  # but this at least
_MOST_REPEATED = 3  # batches that box 3 is asked for as box 2 was
_DENSER = 32  # times the profile's positions, where the score would be the study's best
_TRIES = 2  # of a question: a busy machine may make an honest model late

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one trial gave.

    Attributes:
        outcome: How it ended.
        val_bpb: Validation bits per byte; :obj:`None` unless complete.
        reason: Why it is not complete, in a sentence; empty if it is.
        seconds: Wall seconds by part, as far as it came: ``start``, ``train``, ``save`` (what it
            used of the save margin), ``score_start``, ``score``, ``probe_start``, ``probe``,
            ``total``.
        rate: Budget seconds per wall second of training: the machine's speed meanwhile.
        peak_memory_bytes: Largest resident memory of a box's process tree.
        steps: Last training step that was reported.
        curve: (percent of the budget, smoothed training bits per byte), percents ascending.
        log: What the boxes printed; head and tail if it was long.
        leak: The probe's figures, if it came to that.
        sandbox: Name of the sandbox in force.
        isolated: True when that keeps edited code from everything outside its box.
    """

    outcome: Outcome
    val_bpb: float | None
    reason: str
    seconds: dict[str, float]
    rate: float
    peak_memory_bytes: int
    steps: int
    curve: list[tuple[int, float]]
    log: bytes
    leak: dict[str, float] | None
    sandbox: str
    isolated: bool


class TrialRunner:
    """Measures edited scripts, one after the other or in several threads.

    Between two trials it keeps a few boxes ready; :meth:`close` ends them, and so does the end of
    the process.

    Attributes:
        reference_seconds:
            CPU seconds of a piece of reference work on this machine (``_pace.py``): where a piece
            takes as long, a budget second is a second. :obj:`None` if the profile is not paced.

    Args:
        prepared:
            Data, sizes, budget and limits.
        sandbox:
            What keeps edited code from the machine: one of
            :data:`~optuna_arrl.objective.sandbox.SANDBOXES`.

    Raises:
        ValueError: Unknown sandbox.
        SandboxUnavailable: The sandbox does not hold on this machine.
    """

    def __init__(self, prepared: Prepared, *, sandbox: str = "auto") -> None:
        self.prepared = prepared
        self.sandbox: Sandbox = choose_sandbox(
            sandbox,
            secrets=(*prepared.secrets, embedded_corpus_file()),
            readable=prepared.folder,
        )
        self.reference_seconds = (
            machine_reference_seconds(prepared.root) if prepared.profile.paced else None
        )
        self.supply = BoxSupply(prepared, self.sandbox)
        self._sources = measuring_sources()

    def close(self) -> None:
        """End the boxes that wait for a next trial."""
        self.supply.close()

    def run(
        self,
        source: str,
        *,
        seed: int = 0,
        on_curve: Callable[[int, float], bool] | None = None,
        best_so_far: float | None = None,
        reference_seconds: float | None = None,
    ) -> Measurement:
        """Train and score one script.

        Args:
            source:
                The edited ``train.py``.
            seed:
                Seeds torch and the order of the data.
            on_curve:
                Called in this thread with (percent, training bits per byte) whenever a multiple of
                5 percent is passed; returning True stops the trial as pruned.
            best_so_far:
                The study's lowest val_bpb. A script that goes below it is probed at 32 times as
                many positions: what a study is remembered for is looked at closest.
            reference_seconds:
                What :attr:`reference_seconds` was where the study began; this machine's by
                default.

        Raises:
            MachineFault: The machine failed, not the script; the message says how.
        """
        began = time.monotonic()
        self._check_frozen_set()
        with our_own("a folder for the trial could not be made"):
            folder = Path(tempfile.mkdtemp(prefix="arrl-trial-"))
            free_bytes = shutil.disk_usage(folder).free
        try:
            if free_bytes < _MIN_FREE_BYTES:
                raise MachineFault(f"the disk that holds {folder.parent} is full")
            with CoreClaim(self.prepared.profile.threads) as claim:
                trial = _Trial(
                    self,
                    claim,
                    folder,
                    source,
                    seed,
                    on_curve,
                    best_so_far,
                    reference_seconds or self.reference_seconds,
                )
                measurement = trial.measure()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._check_frozen_set()
        failed = measurement.outcome is Outcome.CRASH
        if failed and shutil.disk_usage(folder.parent).free < _MIN_FREE_BYTES:
            # Still full with the trial's own files gone: not the edit's doing.
            raise MachineFault(f"the disk that holds {folder.parent} is full")
        measurement.seconds["total"] = time.monotonic() - began
        return measurement

    def _check_frozen_set(self) -> None:
        try:
            self.prepared.verify()
        except FrozenSetChanged as e:
            raise MachineFault(str(e)) from e
        now = measuring_sources()
        if now != self._sources:
            changed = {
                name
                for name in now.keys() | self._sources.keys()
                if now.get(name) != self._sources.get(name)
            }
            raise MachineFault(
                f"{min(changed)} changed while this study was running: start it again"
            )


class _Failed(Exception):
    """Ends a trial with an outcome."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class _Trial:
    """The three boxes of one script."""

    def __init__(
        self,
        runner: TrialRunner,
        claim: CoreClaim,
        folder: Path,
        source: str,
        seed: int,
        on_curve: Callable[[int, float], bool] | None,
        best_so_far: float | None,
        reference_seconds: float | None,
    ) -> None:
        self._runner = runner
        self._prepared = runner.prepared
        self._profile = runner.prepared.profile
        self._claim = claim
        self._folder = folder
        self._source = source.encode("utf-8")
        self._seed = seed
        self._on_curve = on_curve
        self._best_so_far = best_so_far
        self._reference_seconds = reference_seconds
        self._weights = folder / WEIGHTS
        self._seconds: dict[str, float] = {}
        self._peak_memory_bytes = 0
        self._rate = 1.0
        self._curve = Curve(self._prepared.manifest["train_bytes_per_token"])
        self._log = b""
        self._leak: Leak | None = None

    def measure(self) -> Measurement:
        val_bpb = None
        outcome, reason = Outcome.COMPLETE, ""
        try:
            if len(self._source) > _SOURCE_BYTES:
                raise _Failed(
                    Outcome.INVALID_EDIT,
                    f"the script has more than {_SOURCE_BYTES >> 10} KiB, room to hide text in",
                )
            self._train()
            val_bpb = self._score()
        except BadWeights as e:
            outcome, reason = Outcome.CRASH, str(e)
        except _Failed as e:
            outcome, reason = e.outcome, e.reason
        return Measurement(
            outcome=outcome,
            val_bpb=val_bpb,
            reason=reason,
            seconds=self._seconds,
            rate=self._rate,
            peak_memory_bytes=self._peak_memory_bytes,
            steps=self._curve.step,
            curve=self._curve.points,
            log=self._log,
            leak=None if self._leak is None else dataclasses.asdict(self._leak),
            sandbox=self._runner.sandbox.name,
            isolated=self._runner.sandbox.isolated,
        )

    def _train(self) -> None:
        asked = time.monotonic()
        with self._runner.supply.box("train", self._claim) as started:
            box = started.supervised
            # The folder's descriptor, not its name: edited code may put something else there.
            folder_fd = os.open(started.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._hand_over(
                    started,
                    self._profile.budget_seconds,
                    reference_seconds=self._reference_seconds,
                )
                # While this one trains, on other cores: its own next two, and the next trial's
                # first, unless that would take memory on the device that this one trains on.
                ahead = 1 if self._profile.device == "cpu" else 0
                self._runner.supply.start_ahead({"answer": 2, "train": ahead}, self._claim)
                pruned = self._follow(box)
                box.end()
                self._runner.supply.start_ahead({"train": 1}, self._claim)
                report = self._account(box, "train", asked)
                budget, used = report.deadline - report.start, report.ended - report.start
                self._seconds["train"] = min(used, budget * (1.0 - self._profile.save_margin))
                self._seconds["save"] = used - self._seconds["train"]
                self._rate = report.rate
                if pruned:
                    raise _Failed(
                        Outcome.PRUNED, "stopped early: its learning curve promised too little"
                    )
                self._raise_failure(report, f"training had not ended after {budget:.1f} s")
                take_weights(folder_fd, self._weights, self._profile.disk_bytes)
            finally:
                os.close(folder_fd)
        check_finite(self._weights)

    def _follow(self, box: SupervisedBox) -> bool:
        """Pass the learning curve on until the box has ended; True if it is to be stopped."""
        marked = 0
        for chunk in box.curve_chunks():
            for percent, bpb in self._curve.add(chunk):
                mark = percent - percent % _CURVE_STEP
                if mark > marked:
                    marked = mark
                    if self._on_curve is not None and self._on_curve(mark, bpb):
                        return True
        return False

    def _score(self) -> float:
        windows = validation_windows(self._prepared)
        answers = self._ask(
            "score", lambda box: answer_windows(box, windows, np.random.default_rng())
        )
        score = credited_bits_per_byte(answers.nats, windows.target_bytes)
        least = self._prepared.manifest["least_bpb"]
        if score < least:
            raise _Failed(
                Outcome.REJECTED,
                f"{score:.4f} bits per byte is less than a model can reach that has not seen the "
                f"validation text (at least {least:.2f}): look at what the script does",
            )
        # Drawn only now, when no box that saw whole windows is left to learn the positions.
        rng = np.random.default_rng()
        count = min(_MOST_REPEATED, len(answers.batches) // 4)
        again = [answers.batches[i] for i in rng.permutation(len(answers.batches))[:count]]
        nats = np.where(windows.target_bytes > 0, answers.nats, np.nan)
        for rows in again:
            nats[rows] = np.nan
        denser = _DENSER if self._best_so_far is not None and score < self._best_so_far else 1
        probe = draw_probe(nats, denser * self._profile.probe_positions, rng)
        self._leak = leak = self._ask(
            "probe",
            lambda box: probe_leak(
                box, windows, answers, probe, rng, again=again, exact=self._profile.device == "cpu"
            ),
            longer=denser,
        )
        if leak.reason is not None:
            raise _Failed(Outcome.REJECTED, leak.reason)
        return credited_bits_per_byte(answers.nats, windows.target_bytes, leak.profit)

    def _ask(self, part: str, question: Callable[[Channel], _T], *, longer: int = 1) -> _T:
        """Put a question to a fresh box that loads the trained model.

        Args:
            part: Its name among the seconds.
            question: Asks it.
            longer: Times the profile's allowance that all answers may take together.
        """
        # Unless that has been done while this trial trained.
        self._runner.supply.start_ahead({"train": 1}, self._claim)
        limit = max(_ANSWER_SECONDS, _ANSWER_SHARE * self._profile.budget_seconds)
        seconds = longer * self._profile.score_seconds
        for _ in range(_TRIES):
            try:
                return self._ask_once(part, question, limit, seconds)
            except TooSlow:
                pass
        raise _Failed(
            Outcome.TIMEOUT,
            f"when it was scored, its model did not answer within {limit:.1f} s: what a script "
            "does before its model answers must be short, and so must each answer",
        )

    def _ask_once(
        self, part: str, question: Callable[[Channel], _T], limit: float, seconds: float
    ) -> _T:
        asked = time.monotonic()
        refusal = answer = slow = None
        with self._runner.supply.box("answer", self._claim) as started:
            box = started.supervised
            deadline = self._hand_over(started, seconds, weights=self._weights)
            channel = Channel(
                box.control,
                box.reply,
                deadline=deadline + GRACE_SECONDS,  # the supervisor's kill comes first
                answer_seconds=limit,
                vocab_size=self._profile.vocab_size,
                rounded=self._profile.device == "cuda" or may_round(self._source.decode("utf-8")),
            )
            try:
                # While the model works on one request the softmax of the one before is done.
                with self._claim.aside():
                    channel.wait_until_loaded()
                    answer = question(channel)
            except WrongAnswer as e:
                refusal = str(e)
            except TooSlow as e:
                slow = e
            except ChannelClosed:
                box.wait_until_ended()
            box.end()
        report = self._account(box, part, asked)
        self._seconds[part] = report.ended - report.start
        if slow is not None:
            raise slow
        if refusal is not None:
            raise _Failed(Outcome.CRASH, refusal)
        if answer is None:
            self._raise_failure(report, f"scoring had not ended after {seconds:.0f} s")
            raise _Failed(Outcome.CRASH, "the model stopped answering before it was scored")
        return answer

    def _hand_over(
        self,
        started: StartedBox,
        run_seconds: float,
        *,
        weights: Path | None = None,
        reference_seconds: float | None = None,
    ) -> float:
        """Put the task into a box; returns its deadline."""
        task = {"source": str(started.inbox / _SCRIPT), "seed": self._seed}
        with our_own("the script could not be put into its box"):
            (started.inbox / _SCRIPT).write_bytes(self._source)
            if weights is not None:
                copy_weights(weights, started.inbox / WEIGHTS)
                task["weights"] = str(started.inbox / WEIGHTS)
        started.supervised.hand_over(
            task,
            run_seconds=run_seconds,
            cores=self._claim.cores,
            reference_seconds=reference_seconds,
            orphaned=(self._folder,),
        )
        return started.supervised.wait_until_handed_over()

    def _raise_failure(self, report: BoxReport, slow: str) -> None:
        """Turn the way a box ended into an outcome; nothing if it ended well."""
        words = last_words(report.log)
        crash, reason, code = Outcome.CRASH, report.reason, report.returncode
        limits = box_limits(self._profile)
        if reason == "memory":
            limit = limits.memory_bytes >> 20
            raise _Failed(Outcome.OOM, f"it took more than {limit} MiB of memory")
        if reason == "exit" and code == _EXIT_OUT_OF_MEMORY:
            raise _Failed(Outcome.OOM, words or "out of memory")
        if reason == "exit":
            raise _Failed(crash, words or f"it ended with exit code {code}")
        if reason == "signal" and code is not None:
            raise _Failed(crash, f"it was killed by {_signal_name(-code)}")
        if reason == "deadline":
            raise _Failed(Outcome.TIMEOUT, slow)
        if reason == "processes":
            raise _Failed(crash, f"it started more than {limits.processes} processes")
        if reason == "disk":
            raise _Failed(crash, f"it wrote more than {limits.disk_bytes >> 20} MiB of files")
        if reason == "log":
            raise _Failed(crash, f"it printed more than {limits.flood_bytes >> 20} MiB")
        if reason != "ok":
            raise MachineFault(f"the supervisor of a box failed: {report.error or reason}")

    def _account(self, box: SupervisedBox, part: str, asked: float) -> BoxReport:
        report = box.report()
        self._seconds["start" if part == "train" else f"{part}_start"] = report.start - asked
        self._peak_memory_bytes = max(self._peak_memory_bytes, report.peak_memory_bytes)
        if report.log:
            self._log += b"--- %s ---\n%s\n" % (part.encode("ascii"), report.log.rstrip())
        return report


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
