"""Runs one edited script under a budget and scores it: three boxes, watched from outside.

Box 1 trains and leaves its weights; box 2 answers the validation windows; box 3 answers truncated
prefixes of positions drawn after box 2 has ended. Each box is a fresh process in fresh folders,
held to its limits by a supervisor of its own (``_supervisor.py``). What edited code does becomes
an outcome; what the machine does raises :class:`MachineFault`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass
import json
import math
import os
from pathlib import Path
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from typing import Any
from typing import TypeVar

import numpy as np
from safetensors import safe_open
from safetensors import SafetensorError

from optuna_arrl.frozen_env.evaluation import draw_probe
from optuna_arrl.frozen_env.evaluation import validation_windows
from optuna_arrl.frozen_env.prepare import frozen_sources
from optuna_arrl.frozen_env.prepare import FrozenSetChanged
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import box_environment
from optuna_arrl.objective.sandbox import PlainProcess
from optuna_arrl.objective.sandbox import Sandbox
from optuna_arrl.objective.scorer import answer_windows
from optuna_arrl.objective.scorer import Channel
from optuna_arrl.objective.scorer import ChannelClosed
from optuna_arrl.objective.scorer import credited_bits_per_byte
from optuna_arrl.objective.scorer import Leak
from optuna_arrl.objective.scorer import probe_leak
from optuna_arrl.objective.scorer import WrongAnswer
from optuna_arrl.trajectory import Outcome


__all__ = ["BoxReport", "Limits", "MachineFault", "Measurement", "SupervisedBox", "TrialRunner"]

_SUPERVISOR = Path(__file__).with_name("_supervisor.py")
_FROZEN_ENV = Path(__file__).parents[1] / "frozen_env"
_WEIGHTS = "model.safetensors"
_WEIGHTS_BYTES = 2 << 30
_MAX_PROCESSES = 128
_LOG_BYTES = 256 << 10
_FLOOD_BYTES = 64 << 20
_CURVE_LINE_BYTES = 512
_CURVE_BYTES = 1 << 20
_CURVE_STEP = 5  # percent of the budget between two points that a pruner sees
_MAX_STEP = 1 << 53
_MAX_BPB = 1000.0
_MIN_FREE_BYTES = 64 << 20
_GRACE_SECONDS = 30.0  # by which a supervisor may be overdue before it counts as lost
_EXIT_OUT_OF_MEMORY = 11
_REASON_CHARACTERS = 300

_T = TypeVar("_T")


class MachineFault(RuntimeError):
    """The machine failed, not the edit: the trial says nothing about its script."""


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
        peak_memory_bytes: Largest resident memory of a box's process tree.
        steps: Last training step that was reported.
        curve: (percent of the budget, smoothed training bits per byte), percents ascending.
        log: What the boxes printed; head and tail if it was long.
        leak: The probe's figures, if it came to that.
        isolated: True when a real sandbox was in force.
    """

    outcome: Outcome
    val_bpb: float | None
    reason: str
    seconds: dict[str, float]
    peak_memory_bytes: int
    steps: int
    curve: list[tuple[int, float]]
    log: bytes
    leak: dict[str, float] | None
    isolated: bool


class TrialRunner:
    """Measures edited scripts, one after the other or in several threads.

    Args:
        prepared:
            Data, sizes, budget and limits.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.sandbox: Sandbox = PlainProcess()
        self._frozen_sources = frozen_sources()

    def run(
        self,
        source: str,
        *,
        seed: int = 0,
        on_curve: Callable[[int, float], bool] | None = None,
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

        Raises:
            MachineFault: The machine failed, not the script; the message says how.
        """
        began = time.monotonic()
        self._check_frozen_set()
        with _machine("a folder for the trial could not be made"):
            folder = Path(tempfile.mkdtemp(prefix="arrl-trial-"))
            free_bytes = shutil.disk_usage(folder).free
        try:
            if free_bytes < _MIN_FREE_BYTES:
                raise MachineFault(f"the disk that holds {folder.parent} is full")
            trial = _Trial(self, folder, source, seed, on_curve)
            measurement = trial.measure()
        finally:
            _remove(folder)
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
        now = frozen_sources()
        if now != self._frozen_sources:
            changed = {
                name
                for name in now.keys() | self._frozen_sources.keys()
                if now.get(name) != self._frozen_sources.get(name)
            }
            raise MachineFault(
                f"frozen_env/{min(changed)} changed while this study was running: start it again"
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
        folder: Path,
        source: str,
        seed: int,
        on_curve: Callable[[int, float], bool] | None,
    ) -> None:
        self._runner = runner
        self._prepared = runner.prepared
        self._profile = runner.prepared.profile
        self._folder = folder
        self._seed = seed
        self._on_curve = on_curve
        self._script = folder / "train.py"
        self._weights = folder / _WEIGHTS
        with _machine("the script could not be written"):
            self._script.write_text(source, encoding="utf-8")
            self._script.chmod(0o444)
        self._seconds: dict[str, float] = {}
        self._peak_memory_bytes = 0
        self._curve = _Curve(self._prepared.manifest["train_bytes_per_token"])
        self._log = b""
        self._leak: Leak | None = None

    def measure(self) -> Measurement:
        val_bpb = None
        outcome, reason = Outcome.COMPLETE, ""
        try:
            self._train()
            val_bpb = self._score()
        except _Failed as e:
            outcome, reason = e.outcome, e.reason
        return Measurement(
            outcome=outcome,
            val_bpb=val_bpb,
            reason=reason,
            seconds=self._seconds,
            peak_memory_bytes=self._peak_memory_bytes,
            steps=self._curve.step,
            curve=self._curve.points,
            log=self._log,
            leak=None if self._leak is None else dataclasses.asdict(self._leak),
            isolated=self._runner.sandbox.isolated,
        )

    def _train(self) -> None:
        scratch = self._new_scratch("train")
        # The folder's descriptor, not its name: edited code may put something else in its place.
        folder_fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._box("train", scratch, {}, self._profile.budget_seconds) as box:
                box.wait_until_ready()
                pruned = self._follow(box)
            report = self._account(box, "train")
            budget, used = report.deadline - report.start, report.ended - report.start
            self._seconds["train"] = min(used, budget * (1.0 - self._profile.save_margin))
            self._seconds["save"] = used - self._seconds["train"]
            if pruned:
                raise _Failed(
                    Outcome.PRUNED, "stopped early: its learning curve promised too little"
                )
            self._raise_failure(report, f"training had not ended after {budget:.1f} s")
            _take_weights(folder_fd, self._weights)
        finally:
            os.close(folder_fd)
        _check_finite(self._weights)

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
        nats, precision = self._ask(
            "score", lambda box: answer_windows(box, windows, np.random.default_rng())
        )
        # Drawn only now, when no box that saw whole windows is left to learn the positions.
        probe = draw_probe(
            np.where(windows.target_bytes > 0, nats, np.nan),
            self._profile.probe_positions,
            np.random.default_rng(),
        )
        leak = self._ask("probe", lambda box: probe_leak(box, windows, nats, probe, precision))
        self._leak = leak
        if leak.reason is not None:
            raise _Failed(Outcome.REJECTED, leak.reason)
        return credited_bits_per_byte(nats, windows.target_bytes, leak.mean)

    def _ask(self, part: str, question: Callable[[Channel], _T]) -> _T:
        """Put a question to a fresh box that has loaded the trained model."""
        seconds = self._profile.score_seconds
        task = {"weights": str(self._weights)}
        refusal = answer = None
        with self._box("answer", self._new_scratch(part), task, seconds) as box:
            deadline = box.wait_until_ready()
            channel = Channel(
                box.control,
                box.reply,
                deadline=deadline + _GRACE_SECONDS,  # the supervisor's kill comes first
                vocab_size=self._profile.vocab_size,
                rounded=self._profile.device == "cuda",
            )
            try:
                channel.wait_until_loaded()
                answer = question(channel)
            except WrongAnswer as e:
                refusal = str(e)
            except ChannelClosed:
                box.wait_until_ended()
        report = self._account(box, part)
        self._seconds[part] = report.ended - report.start
        if refusal is not None:
            raise _Failed(Outcome.CRASH, refusal)
        if answer is None:
            self._raise_failure(report, f"scoring had not ended after {seconds:.0f} s")
            raise _Failed(Outcome.CRASH, "the model stopped answering before it was scored")
        return answer

    def _raise_failure(self, report: BoxReport, slow: str) -> None:
        """Turn the way a box ended into an outcome; nothing if it ended well."""
        words = _last_words(report.log)
        crash, reason, code = Outcome.CRASH, report.reason, report.returncode
        if reason == "memory":
            limit = self._profile.memory_bytes >> 20
            raise _Failed(Outcome.OOM, f"it took more than {limit} MiB of memory")
        if reason == "exit" and code == _EXIT_OUT_OF_MEMORY:
            raise _Failed(Outcome.OOM, words or "out of memory")
        if reason == "exit":
            raise _Failed(crash, words or f"it ended with exit code {code}")
        if reason == "signal" and code is not None:
            raise _Failed(crash, f"it was killed by {signal.Signals(-code).name}")
        if reason == "deadline":
            raise _Failed(Outcome.TIMEOUT, slow)
        if reason == "processes":
            raise _Failed(crash, f"it started more than {_MAX_PROCESSES} processes")
        if reason == "log":
            raise _Failed(crash, f"it printed more than {_FLOOD_BYTES >> 20} MiB")
        if reason != "ok":
            raise MachineFault(f"the supervisor of a box failed: {report.error or reason}")

    def _box(
        self, mode: str, scratch: Path, task: dict[str, str], run_seconds: float
    ) -> SupervisedBox:
        profile = self._profile
        view = scratch.with_name("view")
        with _machine("the frozen environment could not be copied"):
            (view / "frozen_env").mkdir(parents=True)
            for path in _FROZEN_ENV.glob("*.py"):
                copy = view / "frozen_env" / path.name
                shutil.copyfile(path, copy)
                copy.chmod(0o444)
        box = Box(
            view=view,
            scratch=scratch,
            readable=(self._prepared.folder, self._script, self._weights),
        )
        # -I ignores PYTHONDONTWRITEBYTECODE, hence -B.
        launcher = [sys.executable, "-I", "-B", str(view / "frozen_env" / "launcher.py"), mode]
        return SupervisedBox(
            lambda fds: self._runner.sandbox.command(box, [*launcher, *map(str, fds)]),
            environment=box_environment(
                box,
                data=self._prepared.folder,
                profile_json=json.dumps(dataclasses.asdict(profile)),
                threads=profile.threads,
            ),
            folder=scratch,
            task={"source": str(self._script), "seed": self._seed, **task},
            limits=Limits(
                start_seconds=profile.start_seconds,
                run_seconds=run_seconds,
                memory_bytes=profile.memory_bytes,
            ),
            curve=mode == "train",
            orphaned=self._folder,
        )

    def _new_scratch(self, part: str) -> Path:
        scratch = self._folder / part / "scratch"
        with _machine("a folder for a box could not be made"):
            scratch.mkdir(parents=True)
        return scratch

    def _account(self, box: SupervisedBox, part: str) -> BoxReport:
        report = box.report()
        self._seconds["start" if part == "train" else f"{part}_start"] = (
            report.start - report.began
        )
        self._peak_memory_bytes = max(self._peak_memory_bytes, report.peak_memory_bytes)
        if report.log:
            self._log += b"--- %s ---\n%s\n" % (part.encode("ascii"), report.log.rstrip())
        return report


class _Curve:
    """Reads curve points that edited code may have written; what is malformed is ignored.

    Args:
        bytes_per_token: Of the training text: nats per token become bits per byte by it.
    """

    def __init__(self, bytes_per_token: float) -> None:
        self.points: list[tuple[int, float]] = []
        self.step = 0
        self._bpb_in_nats = math.log(2.0) * bytes_per_token
        self._rest = b""

    def add(self, chunk: bytes) -> list[tuple[int, float]]:
        """Take what arrived; returns the points it completed."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[: _CURVE_LINE_BYTES + 1]  # longer than that is no point anyway
        known = len(self.points)
        for line in lines:
            self._take(line)
        return self.points[known:]

    def _take(self, line: bytes) -> None:
        if len(line) > _CURVE_LINE_BYTES:
            return
        try:
            message = json.loads(line)
            step, percent, loss = message["step"], message["percent"], message["loss"]
            bpb = loss / self._bpb_in_nats
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return
        if type(step) is not int or type(percent) is not int or not isinstance(bpb, float):
            return
        last = self.points[-1][0] if self.points else 0
        if 0 <= step < _MAX_STEP and last < percent <= 100 and 0.0 <= bpb < _MAX_BPB:
            self.step = max(self.step, step)
            self.points.append((percent, bpb))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a box may use.

    Attributes:
        start_seconds: Until the launcher is ready.
        run_seconds: From the moment the task is handed over.
        memory_bytes: Resident memory of the process tree.
    """

    start_seconds: float
    run_seconds: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class BoxReport:
    """How a box ended, as its supervisor saw it. Times are ``time.monotonic()`` seconds.

    Attributes:
        reason: ``ok``, ``exit``, ``signal``, ``deadline``, ``memory``, ``processes``, ``log``,
            ``abandoned`` (we stopped it) or ``supervisor`` (it could not go on).
        returncode: Of the command, as in :mod:`subprocess`; :obj:`None` if it was killed.
        error: What went wrong on the supervisor's side.
        began: When it was started.
        start: When the task was handed over.
        deadline: When it had to end.
        ended: When it ended, or the order to kill it was given.
        kill_seconds: How long it took until the whole tree was dead.
        peak_memory_bytes: Largest resident memory of the tree.
        log_bytes: How much was printed.
        log: What was kept of it.
    """

    reason: str
    returncode: int | None
    error: str
    began: float
    start: float
    deadline: float
    ended: float
    kill_seconds: float
    peak_memory_bytes: int
    log_bytes: int
    log: bytes


class SupervisedBox:
    """A box and its supervisor. As a context manager: at its end the whole tree is dead.

    Attributes:
        control: File descriptor the box reads from, once it is ready.
        reply: File descriptor the box writes to, once it is ready.

    Args:
        command:
            Makes the command line from the file descriptors it is to be given: control, reply and,
            if asked for, curve.
        environment:
            The whole environment of the command.
        folder:
            Its working folder.
        task:
            What the launcher reads first, with ``start`` and ``deadline`` added.
        limits:
            What it may use.
        curve:
            Give it a pipe for its learning curve.
        orphaned:
            A folder that the supervisor removes when this process dies before the box ends.

    Raises:
        MachineFault: No process or pipe could be had.
    """

    def __init__(
        self,
        command: Callable[[list[int]], list[str]],
        *,
        environment: dict[str, str],
        folder: Path,
        task: dict[str, Any],
        limits: Limits,
        curve: bool = False,
        orphaned: Path | None = None,
    ) -> None:
        self._ready: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._received = b""
        self._at_eof = False
        self._curve_fd: int | None = None
        self._open: list[int] = []
        with _machine("a box could not be started"):
            # A socket, not a pipe: shutting it down reaches the supervisor even while a fork of
            # this process holds a copy of our end.
            self._leash, leash = socket.socketpair()
            try:
                control_read, self.control = self._pipe()
                self.reply, reply_write = self._pipe()
                self._report_fd, report_write = self._pipe()
                box_fds = [control_read, reply_write]
                if curve:
                    self._curve_fd, curve_write = self._pipe()
                    os.set_blocking(self._curve_fd, False)
                    box_fds.append(curve_write)
                config = {
                    **dataclasses.asdict(limits),
                    "command": command(box_fds),
                    "environment": environment,
                    "folder": str(folder),
                    "orphaned": None if orphaned is None else str(orphaned),
                    "control": self.control,
                    "reply": self.reply,
                    "box_fds": box_fds,
                    "task": task,
                    "processes": _MAX_PROCESSES,
                    "log_bytes": _LOG_BYTES,
                    "flood_bytes": _FLOOD_BYTES,
                }
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-B", str(_SUPERVISOR), str(report_write)],
                    stdin=leash.fileno(),
                    stdout=subprocess.DEVNULL,
                    pass_fds=[*box_fds, self.control, self.reply, report_write],
                    cwd="/",
                    # A box without a sandbox can read its supervisor's environment.
                    env={k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ},
                    start_new_session=True,  # Ctrl-C is ours to answer
                )
            except BaseException:
                self._leash.close()
                self._close(self._open)
                raise
            finally:
                leash.close()
            self._close([*box_fds, report_write])
        self._stop_looking = (  # the supervisor holds the real limits; this is for its own death
            time.monotonic() + limits.start_seconds + 2 * limits.run_seconds + _GRACE_SECONDS
        )
        try:
            self._leash.sendall(json.dumps(config).encode("ascii") + b"\n")
        except OSError:  # it has died: its report, or the lack of one, says so
            pass

    def __enter__(self) -> SupervisedBox:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # The supervisor kills the tree, unless it has ended.
            self._leash.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended itself
            pass
        try:
            self.wait_until_ended()
            self._process.wait()
        finally:
            self._leash.close()
            self._close(self._open)

    def wait_until_ready(self) -> float:
        """Wait until the task has been handed over; returns the deadline.

        Raises:
            MachineFault: The box did not get that far.
        """
        while self._ready is None and not self._at_eof:
            self._poll(self._report_fd)
            self._receive()
        if self._ready is None:
            raise MachineFault(self._start_fault())
        deadline: float = self._ready["deadline"]
        return deadline

    def wait_until_ended(self) -> None:
        """Wait until the whole tree is dead.

        Raises:
            MachineFault: The supervisor ended without a report.
        """
        while not self._at_eof:
            self._poll(self._report_fd)
            self._receive()

    def curve_chunks(self) -> Iterator[bytes]:
        """What arrives on the curve pipe, as it arrives, until the box has ended."""
        assert self._curve_fd is not None
        taken, is_open = 0, True
        while not self._at_eof:
            fds = [self._report_fd, self._curve_fd] if is_open else [self._report_fd]
            if self._report_fd in self._poll(*fds):
                self._receive()
            # Also when the box has just ended: its last points are still in the pipe.
            while is_open and (data := _read_available(self._curve_fd)) is not None:
                taken += len(data)
                is_open = bool(data) and taken < _CURVE_BYTES
                yield data

    def report(self) -> BoxReport:
        """How the box ended; to be asked once the context has been left."""
        assert self._ready is not None and self._end is not None
        return BoxReport(
            start=self._ready["start"],
            deadline=self._ready["deadline"],
            log=self._received,
            **{key: value for key, value in self._end.items() if key != "event"},
        )

    def _receive(self) -> None:
        data = os.read(self._report_fd, 1 << 16)
        self._received += data
        while self._end is None and b"\n" in self._received:
            line, self._received = self._received.split(b"\n", 1)
            event = json.loads(line)
            if event.pop("event") == "ready":
                self._ready = event
            else:
                self._end = event  # what follows is the log
        if not data:
            self._at_eof = True
            if self._end is None:
                raise MachineFault("the supervisor of a box was killed")

    def _poll(self, *fds: int) -> set[int]:
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        ready = poll.poll(max(0.0, self._stop_looking - time.monotonic()) * 1000.0)
        if not ready:
            self._process.kill()
            self._at_eof = True
            raise MachineFault("the supervisor of a box did not keep its time limit")
        return {fd for fd, _ in ready}

    def _start_fault(self) -> str:
        assert self._end is not None
        words = _last_words(self._received)
        if self._end["error"]:
            return f"a box could not be started: {self._end['error']}"
        if self._end["reason"] == "memory":
            return (
                "a box took more than its memory limit before any edited code ran: raise the limit"
            )
        if self._end["returncode"] is None:
            return f"a box was not ready in time ({self._end['reason']})"
        return f"a box ended before any edited code ran: {words or self._end['returncode']}"

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open += ends
        return ends

    def _close(self, fds: list[int]) -> None:
        for fd in list(fds):
            os.close(fd)
            self._open.remove(fd)


@contextmanager
def _machine(what: str) -> Iterator[None]:
    """Our own file and process operations: when they fail, the machine is at fault."""
    try:
        yield
    except OSError as e:
        raise MachineFault(f"{what}: {e}") from e


def _read_available(fd: int) -> bytes | None:
    """What a non-blocking descriptor holds: empty at its end, :obj:`None` if nothing yet."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return None


def _last_words(log: bytes) -> str:
    """The message of the last traceback, or else the last line."""
    lines = [line for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    words = lines[-1] if lines else ""
    for number in reversed(range(len(lines))):
        if lines[number].startswith("Traceback (most recent call last)"):
            words = next((x for x in lines[number + 1 :] if not x[0].isspace()), words)
            break
    return "".join(c if c.isprintable() else "?" for c in words[:_REASON_CHARACTERS])


def _take_weights(folder_fd: int, target: Path) -> None:
    """Copy the weights that a dead box has left, if they are a plain file of bounded size.

    Raises:
        _Failed: There is none, or something else stands in its place.
        MachineFault: It could not be copied.
    """
    # Never follow a link, never wait on a FIFO; what is checked is what is read: one descriptor.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(_WEIGHTS, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        raise _Failed(Outcome.CRASH, f"it ended without leaving a {_WEIGHTS}") from None
    except OSError:
        raise _Failed(Outcome.CRASH, f"its {_WEIGHTS} is not a regular file") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _Failed(Outcome.CRASH, f"its {_WEIGHTS} is not a regular file")
        if status.st_size > _WEIGHTS_BYTES:
            raise _Failed(Outcome.CRASH, f"its {_WEIGHTS} has more than {_WEIGHTS_BYTES} bytes")
        with (
            _machine("the weights could not be copied"),
            os.fdopen(fd, "rb", closefd=False) as file,
            target.open("xb") as copy,
        ):
            shutil.copyfileobj(file, copy, 1 << 20)
        target.chmod(0o444)
    finally:
        os.close(fd)


# Bits that are all set in a number that is not finite, and how to view the numbers.
_NOT_FINITE = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def _check_finite(path: Path) -> None:
    """Refuse weights that are broken or not finite.

    numpy has no bfloat16, so the bits are looked at: an exponent of all ones is inf or NaN.

    Raises:
        _Failed: With the name of the tensor.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass  # the library has checked header, offsets and overlaps
    except SafetensorError as e:
        raise _Failed(Outcome.CRASH, f"its {_WEIGHTS} cannot be read: {e}") from None
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    for name, tensor in header.items():
        if name == "__metadata__" or tensor["dtype"] not in _NOT_FINITE:
            continue
        view, mask = _NOT_FINITE[tensor["dtype"]]
        begin, end = tensor["data_offsets"]
        if begin == end:
            continue
        offset = 8 + header_bytes + begin
        count = (end - begin) // np.dtype(view).itemsize
        bits = np.memmap(path, dtype=view, mode="r", offset=offset, shape=(count,))
        if bool(((bits & mask) == mask).any()):
            raise _Failed(Outcome.CRASH, f"the trained weights are not finite: {name[:80]}")


def _remove(folder: Path) -> None:
    """Remove a trial's folder, even one that edited code has made unreadable."""
    for path, names, _ in os.walk(folder):
        for name in names:
            if not os.path.islink(subfolder := os.path.join(path, name)):
                os.chmod(subfolder, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
