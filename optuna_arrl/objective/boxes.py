"""A box under supervision: a process that runs edited code, and the one that holds its limits."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass
import json
import os
from pathlib import Path
import select
import socket
import subprocess
import sys
import time
from typing import Any


__all__ = [
    "GRACE_SECONDS",
    "BoxReport",
    "Limits",
    "MachineFault",
    "SupervisedBox",
    "last_words",
    "our_own",
]

_SUPERVISOR = Path(__file__).with_name("_supervisor.py")
_PACE = Path(__file__).with_name("_pace.py")
_LOG_BYTES = 256 << 10
_FLOOD_BYTES = 64 << 20
_IDLE_SECONDS = 600.0
_MAPPINGS = 100_000  # of the tree, in memory: a process of torch has about a thousand
_DESCRIPTORS = 20_000  # of the tree, one shared by two processes counted twice
_FILES = 10_000
_CURVE_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
LONGEST = 3.0  # wall seconds of a budget second, in a box that keeps the machine's pace
GRACE_SECONDS = 30.0  # by which a supervisor may be overdue before it counts as lost
_REASON_CHARACTERS = 300


class MachineFault(RuntimeError):
    """The machine failed, not the edit: the trial says nothing about its script."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a box may use.

    Attributes:
        start_seconds: Until the launcher is ready.
        memory_bytes: Resident memory of the process tree.
        disk_bytes: Disk space of the files in its working folder.
        files: Files in its working folder, and in each folder in memory that is its own.
        processes: Processes of the tree.
        mappings, descriptors: Of all its processes: to look at them takes time.
        flood_bytes: What it may print.
    """

    start_seconds: float
    memory_bytes: int
    disk_bytes: int
    files: int = _FILES
    processes: int = 128
    mappings: int = _MAPPINGS
    descriptors: int = _DESCRIPTORS
    flood_bytes: int = _FLOOD_BYTES


@dataclass(frozen=True, kw_only=True)
class BoxReport:
    """How a box ended, as its supervisor saw it. Times are ``time.monotonic()`` seconds.

    Attributes:
        reason: ``ok``, ``exit``, ``signal``, ``deadline``, ``memory``, ``processes``, ``disk``,
            ``log``, ``abandoned`` (we stopped it) or ``supervisor`` (it could not go on).
        returncode: Of the command, as in :mod:`subprocess`; :obj:`None` if it was killed.
        error: What went wrong on the supervisor's side.
        began: When it was started.
        start: When the task was handed over.
        deadline: When it had to end, as it was in the end.
        rate: Seconds of its time per wall second: other than 1 if it kept the machine's pace.
        ended: When it ended, or the order to kill it was given.
        kill_seconds: How long it took until the whole tree was dead.
        cpu_seconds: Of the whole tree, since it had its task.
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
    rate: float
    ended: float
    kill_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    log_bytes: int
    log: bytes


class SupervisedBox:
    """A box and its supervisor. As a context manager: at its end the whole tree is dead.

    It starts at once, and waits for its task (:meth:`hand_over`) for ten minutes at most.

    Attributes:
        control: File descriptor the box reads from, once it has its task.
        reply: File descriptor the box writes to, once it has its task.

    Args:
        command:
            Makes the command line from the file descriptors it is to be given: control, reply and,
            if asked for, curve and pace.
        environment:
            The whole environment of the command.
        folder:
            Its working folder.
        limits:
            What it may use.
        curve:
            Give it a pipe for its learning curve.
        paced:
            Give it a pipe that tells where its deadline has moved to.
        cores:
            Cores that the box starts on; :obj:`None` does not restrict it.
        own_cores:
            Cores of the supervisor.
        start_lock:
            Descriptor that is the supervisor's until the box has started; closed in this process.
        signal_codes:
            The command's death by signal n shows as exit code 128 + n.
        memory_folders:
            Folders in memory that the box has of its own.
        orphaned:
            Folders that the supervisor removes when this process dies before the box ends.

    Raises:
        MachineFault: No process or pipe could be had.
    """

    def __init__(
        self,
        command: Callable[[list[int]], list[str]],
        *,
        environment: dict[str, str],
        folder: Path,
        limits: Limits,
        curve: bool = False,
        paced: bool = False,
        cores: Sequence[int] | None = None,
        own_cores: Sequence[int] | None = None,
        start_lock: int | None = None,
        signal_codes: bool = False,
        memory_folders: Sequence[str] = (),
        orphaned: Sequence[Path] = (),
    ) -> None:
        self._is_ready = False
        self._is_closed = False
        self._task: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._received = b""
        self._at_eof = False
        self._curve_fd: int | None = None
        self._open: list[int] = [] if start_lock is None else [start_lock]
        with our_own("a box could not be started"):
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
                pace_fds: list[int] = []
                if paced:
                    pace_read, pace_write = pace_fds = list(self._pipe())
                    os.set_blocking(pace_read, False)
                    os.set_blocking(pace_write, False)
                    box_fds.append(pace_read)
                config = {
                    **dataclasses.asdict(limits),
                    "idle_seconds": _IDLE_SECONDS,
                    "command": command(box_fds),
                    "environment": environment,
                    "folder": str(folder),
                    "orphaned": [str(path) for path in orphaned],
                    "control": self.control,
                    "reply": self.reply,
                    "box_fds": box_fds,
                    "cores": None if cores is None else list(cores),
                    "own_cores": None if own_cores is None else list(own_cores),
                    "start_lock": start_lock,
                    "pace": [str(_PACE), pace_write] if paced else None,
                    "signal_codes": signal_codes,
                    "memory_folders": list(memory_folders),
                    "log_bytes": _LOG_BYTES,
                }
                given = [*box_fds, *pace_fds[1:], self.control, self.reply, report_write]
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-B", str(_SUPERVISOR), str(report_write)],
                    stdin=leash.fileno(),
                    stdout=subprocess.DEVNULL,
                    pass_fds=given if start_lock is None else [*given, start_lock],
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
            ours = [report_write, *pace_fds[1:], *([] if start_lock is None else [start_lock])]
            self._close([*box_fds, *ours])
        # The supervisor holds the real limits; this is for its own death.
        self._stop_looking = time.monotonic() + limits.start_seconds + GRACE_SECONDS
        self._start_seconds = limits.start_seconds
        self._tell(config)

    def hand_over(
        self,
        task: dict[str, Any],
        *,
        run_seconds: float,
        cores: Sequence[int] | None = None,
        reference_seconds: float | None = None,
        orphaned: Sequence[Path] = (),
    ) -> None:
        """Give the box its task, as soon as it is ready: from then on its deadline counts.

        Args:
            task: What the launcher reads, with ``start`` and ``deadline`` added.
            run_seconds: Seconds it has.
            cores: Cores it has from now on; :obj:`None` leaves them as they are.
            reference_seconds: Of a piece of reference work (``_pace.py``): its time passes as the
                work goes on its first core. :obj:`None`: wall seconds. For boxes made ``paced``.
            orphaned: Further folders to be removed when this process dies.
        """
        self._stop_looking = (
            time.monotonic() + self._start_seconds + LONGEST * run_seconds + GRACE_SECONDS
        )
        self._tell(
            {
                "task": task,
                "run_seconds": run_seconds,
                "cores": None if cores is None else list(cores),
                "reference_seconds": reference_seconds,
                "longest": LONGEST,
                "orphaned": [str(path) for path in orphaned],
            }
        )

    def forget(self) -> None:
        """Let go of it in a forked process, whose parent it belongs to."""
        self._is_closed = True
        self._leash.close()
        self._close(self._open)

    def __enter__(self) -> SupervisedBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill what is left of it, and wait until the whole tree is dead."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stop_looking = time.monotonic() + GRACE_SECONDS
        self._tell({"stop": True})
        try:
            self.wait_until_ended()
            self._process.wait()
        finally:
            self._leash.close()
            self._close(self._open)

    def wait_until_handed_over(self) -> float:
        """Wait until the box has its task; returns the deadline.

        Raises:
            MachineFault: The box did not get that far.
        """
        while self._task is None and not self._at_eof:
            self._poll(self._report_fd)
            self._receive()
        if self._task is None:
            raise MachineFault(self._start_fault())
        deadline: float = self._task["deadline"]
        return deadline

    def is_ready(self, *, wait: bool = False) -> bool:
        """Tell whether it waits for its task; False once it has ended.

        Args:
            wait: Until it does, or has ended.
        """
        while not self._is_ready and not self._at_eof:
            if not wait and not _is_readable(self._report_fd):
                return False
            self._poll(self._report_fd)
            self._receive()
        while self._end is None and not self._at_eof and _is_readable(self._report_fd):
            self._receive()
        return self._end is None and not self._at_eof

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
        """How the box ended; to be asked once it has."""
        assert self._task is not None and self._end is not None
        return BoxReport(
            start=self._task["start"],
            log=self._received,
            **{key: value for key, value in self._end.items() if key != "event"},
        )

    def _receive(self) -> None:
        data = os.read(self._report_fd, 1 << 16)
        self._received += data
        while self._end is None and b"\n" in self._received:
            line, self._received = self._received.split(b"\n", 1)
            event = json.loads(line)
            match event.pop("event"):
                case "ready":
                    self._is_ready = True
                case "handed over":
                    self._task = event
                case _:
                    self._end = event  # what follows is the log
        if not data:
            self._at_eof = True
            if self._end is None:
                raise MachineFault("the supervisor of a box was killed")

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._leash.sendall(json.dumps(message).encode("ascii") + b"\n")
        except OSError:  # it has died: its report, or the lack of one, says so
            pass

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
        words = last_words(self._received)
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
        import fcntl  # Windows has none, and is refused in a sentence by what imports this

        ends = os.pipe()
        with contextlib.suppress(OSError):  # fewer turns for megabytes of logits
            fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._open += ends
        return ends

    def _close(self, fds: list[int]) -> None:
        for fd in list(fds):
            os.close(fd)
            self._open.remove(fd)


@contextmanager
def our_own(what: str) -> Iterator[None]:
    """Our own file and process operations: when they fail, the machine is at fault."""
    try:
        yield
    except OSError as e:
        raise MachineFault(f"{what}: {e}") from e


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _read_available(fd: int) -> bytes | None:
    """What a non-blocking descriptor holds: empty at its end, :obj:`None` if nothing yet."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return None


def last_words(log: bytes) -> str:
    """The message of the last traceback, or else the last line."""
    lines = [line for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    words = lines[-1] if lines else ""
    for number in reversed(range(len(lines))):
        if lines[number].startswith("Traceback (most recent call last)"):
            words = next((x for x in lines[number + 1 :] if not x[0].isspace()), words)
            break
    return "".join(c if c.isprintable() else "?" for c in words[:_REASON_CHARACTERS])
