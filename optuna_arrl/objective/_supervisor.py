"""Holds one box to its limits, from a process of its own.

Started as ``python -I _supervisor.py REPORT_FD`` with JSON lines on standard input. A process of
its own, so that an Optuna process that is stuck, stopped or killed can neither stretch a time
limit nor leave a training run behind. It imports nothing of this package and no edited code.

The first line is the configuration: the box's command is started, and its launcher's ready line
waited for. The second hands over the task, now or much later (a box may be started ahead of its
use): from this moment on the deadline counts. It may move, with the speed of the machine
(``_pace.py``), and the box is told so by a pipe. ``{"stop": true}`` means "kill everything", and
so does the end of standard input, which says that the parent has died. Meanwhile it watches time,
memory and number of processes of the whole tree, the files in its scratch folder and the size of
the log. On REPORT_FD it writes JSON lines: ``{"event": "ready"}`` when the launcher waits for its
task, ``{"event": "handed over", ...}``, and ``{"event": "end", ...}`` when the tree is dead,
followed by what was kept of the log. Times are seconds of CLOCK_MONOTONIC, which all processes of
a machine share.

Above it stands a guard, a fork that only waits: when the supervisor itself is killed, what it
leaves behind becomes the guard's and is killed too.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import ctypes
import importlib.util
import json
import math
import os
import selectors
import signal
import stat
import struct
import subprocess
import sys
import time
from typing import Any

import psutil


_POLL_SECONDS = 0.05
_LOOK_SHARE = 0.05  # of a core at most: on a machine with many processes we look less often
_SLOWEST_LOOK_SECONDS = 0.5
_DISK_LOOK_SECONDS = 0.25
_THREADS = 8  # of a process, on average
_SOCKET_BYTES, _PIPE_BYTES = 256 << 10, 1 << 20  # that one may hold, as memory of nobody
# Of the budget, in work: what the last stretch, in which a deadline stands, may add to it.
_MOST_USED = 1.06
_DEEPEST_PATH = 1024  # characters
_PIECE_SECONDS = 0.1  # between pieces of reference work
# Of the budget: so long before its end a deadline moves no more, that the box can count on it.
_SETTLED_SHARE = 0.05
_SETTLED_SECONDS = 0.3  # but at least so long: it takes as long to save
_KILL_SECONDS = 10.0  # after this a process is stuck in the kernel, and waiting does not help
_READ_BYTES = 1 << 16
_LINE_BYTES = 4096
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class _Log:
    """The head and the tail of a stream, in bounded memory."""

    def __init__(self, kept_bytes: int) -> None:
        self._head_bytes = kept_bytes // 4
        self._tail_bytes = kept_bytes - self._head_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self.seen = 0

    def add(self, data: bytes) -> None:
        self.seen += len(data)
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > self._tail_bytes + _READ_BYTES:
            del self._tail[: -self._tail_bytes]

    def kept(self) -> bytes:
        tail = self._tail[-self._tail_bytes :]
        left_out = self.seen - len(self._head) - len(tail)
        gap = b"\n[... %d bytes left out ...]\n" % left_out if left_out else b""
        return bytes(self._head + gap + tail)


class _Tree:
    """Every process that descends from this one.

    A daemon that left its session and lost its parent is still found: orphans of the tree are
    adopted by this process (subreaper), not by init.
    """

    def __init__(self, most_mappings: int, most_descriptors: int) -> None:
        self._most_mappings, self._most_descriptors = most_mappings, most_descriptors
        self._me = psutil.Process()
        self._root: int | None = None
        self.returncode: int | None = None
        self.peak_memory_bytes = 0
        self.cpu_seconds = 0.0
        self.looked_at = 0.0
        self._seen: list[psutil.Process] = []
        self.nameless = _NamelessFiles(most_mappings, most_descriptors)

    def start(self, command: list[str], cores: list[int] | None, **options: Any) -> None:
        supervisor = os.getpid()
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        def die_with_supervisor() -> None:
            # Fires when the *thread* that forked ends: this process has one thread only.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:
                os._exit(1)
            if cores is not None:
                os.sched_setaffinity(0, cores)

        child = subprocess.Popen(
            command, start_new_session=True, preexec_fn=die_with_supervisor, **options
        )
        self._root = child.pid
        child.returncode = 0  # reaped by `reap`, with the orphans

    def look(self, *, at_files: bool) -> tuple[int, int, int]:
        """Live processes, their threads, and the memory that they take, in bytes.

        Args:
            at_files: Look anew at the files without a name, which takes longer.
        """
        memory = processes = threads = 0
        files = _NamelessFiles(self._most_mappings, self._most_descriptors)
        # Of those that have ended too: a box cannot have its children reaped by nobody.
        cpu_seconds = sum(os.times()[2:4])
        self._seen = self._me.children(recursive=True)
        for process in self._seen:
            try:
                cpu_seconds += sum(process.cpu_times()[:4])
                own_memory, own_threads = _memory_and_threads(process.pid)
                memory += own_memory
                threads += own_threads
                processes += 1
            except (OSError, psutil.Error):  # ended meanwhile
                pass
        self.looked_at = time.monotonic()
        self.cpu_seconds = max(self.cpu_seconds, cpu_seconds)
        if at_files:
            for process in self._seen:
                with contextlib.suppress(OSError):  # ended meanwhile
                    files.add_those_of(process.pid)
            self.nameless = files
        memory += self.nameless.memory_bytes
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        return processes, threads, memory

    def reap(self) -> bool:
        """Collect ended processes; True once the command itself has ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            # The kernel's own peak of one process catches what fell between two looks.
            self.peak_memory_bytes = max(self.peak_memory_bytes, usage.ru_maxrss * 1024)
            if pid == self._root:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode is not None

    def move(self, cores: list[int]) -> None:
        """Let every thread of the tree run on these cores only."""
        for process in self._me.children(recursive=True):
            try:
                for thread in process.threads():
                    os.sched_setaffinity(thread.id, cores)
            except (OSError, psutil.Error):  # ended meanwhile
                pass

    def files_in(self, folders: list[str]) -> int:
        """Return how many files the fullest folder holds, of those that are the box's own mounts.

        Nothing is listed: the kernel keeps count.
        """
        most = 0
        for process in self._seen if folders else ():
            for folder in folders:
                own = f"/proc/{process.pid}/root{folder}"
                try:
                    # Whoever starts the box, and is in none, has the machine's folders.
                    if os.stat(own).st_dev != _device(folder):
                        status = os.statvfs(own)
                        most = max(most, status.f_files - status.f_ffree)
                except OSError:  # ended meanwhile
                    pass
            if most:  # all processes of a box see the same
                break
        return most

    def kill(self) -> None:
        _kill_descendants(self._me, self.reap, self._root)


class _NamelessFiles:
    """Files that processes have open or mapped and that no folder holds; each counts once.

    Args:
        most_mappings, most_descriptors: That are looked at: a box may not keep us busy with more.

    Attributes:
        memory_bytes: Of those that lie in memory: memfd, shared memory without a file, and what
            sockets and pipes may hold.
        disk_bytes: Of the others.
        are_too_many: There are more mappings or descriptors.
    """

    def __init__(self, most_mappings: int, most_descriptors: int) -> None:
        self._most_mappings, self._most_descriptors = most_mappings, most_descriptors
        fd = os.memfd_create("")
        self._device_of_memory = os.fstat(fd).st_dev
        os.close(fd)
        self._seen: set[tuple[int, int]] = set()
        self._mappings = self._descriptors = 0
        self.memory_bytes = 0
        self.disk_bytes = 0
        self.are_too_many = False

    def add_those_of(self, pid: int) -> None:
        if self.are_too_many:
            return
        for fd in os.listdir(f"/proc/{pid}/fd"):
            self._descriptors += 1
            if self._descriptors > self._most_descriptors:
                self.are_too_many = True
                return
            self._add(f"/proc/{pid}/fd/{fd}")
        # Bytes, and lines as the kernel ends them: what a box names may hold anything else.
        with open(f"/proc/{pid}/maps", "rb") as file:
            for line in file:
                self._mappings += 1
                if self._mappings > self._most_mappings:
                    self.are_too_many = True
                    return
                if line.endswith(b" (deleted)\n"):
                    self._add_mapping(pid, line)

    def _add_mapping(self, pid: int, line: bytes) -> None:
        place, _, _, device, inode, _ = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in place.split(b"-"))
        file = os.makedev(*(int(part, 16) for part in device.split(b":"))), int(inode)
        # Others than root may not look: to them the size says what it may hold.
        if file not in self._seen and not self._add(f"/proc/{pid}/map_files/{start:x}-{end:x}"):
            self._count(*file, end - start)

    def _add(self, path: str) -> bool:
        try:
            status = os.stat(path)
        except OSError:
            return False
        file = status.st_dev, status.st_ino
        if stat.S_ISSOCK(status.st_mode):
            self._count(*file, _SOCKET_BYTES, in_memory=True)
        elif stat.S_ISFIFO(status.st_mode):
            self._count(*file, _PIPE_BYTES, in_memory=True)
        elif stat.S_ISREG(status.st_mode) and not status.st_nlink:
            self._count(*file, status.st_blocks * 512)
        return True

    def _count(self, device: int, inode: int, size: int, *, in_memory: bool = False) -> None:
        if (device, inode) in self._seen:
            return
        self._seen.add((device, inode))
        if in_memory or device == self._device_of_memory:
            self.memory_bytes += size
        else:
            self.disk_bytes += size


_MEMORY = (b"RssAnon", b"RssFile", b"VmPTE")  # what is shared by name counts as files


def _memory_and_threads(pid: int) -> tuple[int, int]:
    """Bytes of memory that a process has for itself, and the number of its threads."""
    figures = _figures(f"/proc/{pid}")
    threads = figures.get(b"Threads", 0)
    if b"RssAnon" not in figures:
        # Its first thread has ended and shows none; the others do.
        tasks = [_figures(f"/proc/{pid}/task/{name}") for name in os.listdir(f"/proc/{pid}/task")]
        figures = next((each for each in tasks if b"RssAnon" in each), {})
    return sum(figures.get(kind, 0) for kind in _MEMORY) << 10, threads


def _figures(folder: str) -> dict[bytes, int]:
    with contextlib.suppress(OSError), open(f"{folder}/status", "rb") as file:
        # The first line is the name, which a box chooses; the kernel leaves no line end in it.
        lines = (line.partition(b":") for line in file.read().split(b"\n")[1:])
        kinds = (*_MEMORY, b"Threads")
        return {kind: int(value.split()[0]) for kind, _, value in lines if kind in kinds}
    return {}  # ended meanwhile


def _device(folder: str) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(folder).st_dev
    return None


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _kill_group(group: int) -> None:
    if group != os.getpgid(0):
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def _kill_descendants(
    root: psutil.Process, reap: Callable[[], object], group: int | None = None
) -> None:
    give_up = time.monotonic() + _KILL_SECONDS
    frozen: set[psutil.Process] = set()
    while time.monotonic() < give_up:
        # A group is killed at one stroke. With Landlock a box is one; with namespaces all of it
        # goes with its first process.
        if group is not None:
            _kill_group(group)
        reap()
        if not _has_children():  # an orphan would be ours
            return
        alive = set(root.children(recursive=True))
        for process in alive:
            with contextlib.suppress(OSError):
                _kill_group(os.getpgid(process.pid))
        # Freeze until nothing new appears, then kill: a fork bomb cannot outrun a frozen tree.
        fresh = alive - frozen
        for process in fresh or alive:
            try:
                process.suspend() if fresh else process.kill()
            except psutil.Error:
                pass
        frozen |= fresh
        if not fresh:
            time.sleep(0.002)


class _Supervision:
    """One box, from its start to the death of its last process.

    Args:
        config:
            ``command``, ``environment``, ``folder`` (working folder); ``control``, ``reply``: file
            descriptors for the task and the ready line; ``box_fds``: descriptors the box gets;
            ``signal_codes``: whether exit code 128 + n of the command means signal n;
            ``cores`` of the box and ``own_cores`` of this process, or null; ``start_lock``: a
            descriptor to be closed once the box is ready, or null; ``orphaned``: folders to remove
            when nobody is left who could; ``pace``: path of ``_pace.py`` and the descriptor that
            deadlines are written to, or null; ``start_seconds``, ``idle_seconds``: time allowed
            until ready, and from then until the task comes; ``memory_bytes``, ``processes``,
            ``disk_bytes``, ``files`` (of a folder), ``mappings``, ``descriptors``: limits of the
            tree; ``memory_folders``: that the box has of its own; ``log_bytes`` kept,
            ``flood_bytes`` tolerated.
        report:
            Takes each event.
        received:
            What followed the configuration on standard input.
    """

    def __init__(
        self, config: dict[str, Any], report: Callable[[dict[str, Any]], None], received: bytes
    ) -> None:
        self._config = config
        self._report = report
        self._began = time.monotonic()
        self._parent = os.getppid()
        self._limit = self._began + config["start_seconds"]
        self._tree = _Tree(config["mappings"], config["descriptors"])
        self._log = _Log(config["log_bytes"])
        self._is_ready = False
        self._handed_over = False
        self._order: dict[str, Any] | None = None
        self._ready_line = b""
        self._received = received
        self._orphaned: list[str] = config["orphaned"]
        self._is_orphan = False
        self._selector = selectors.DefaultSelector()
        self._next_look = self._began
        self._next_disk_look = self._began
        self._pace: Any = None
        self._next_piece = math.inf
        self._start_time = self._began
        self._start_cpu_seconds = 0.0

    def run(self) -> bytes:
        """Supervise to the end; returns what was kept of the log."""
        error = ""
        try:
            try:
                self._start()
                reason = self._watch()
            except (OSError, subprocess.SubprocessError) as e:
                reason, error = "start" if not self._handed_over else "supervisor", str(e)
            ended = time.monotonic()
            # What it returned by itself; after a kill its status would be ours.
            self._tree.reap()
            returncode = self._tree.returncode
            self._tree.look(at_files=False)
            if reason == "ok" and self._has_used_too_much():
                reason = "deadline"
        finally:
            self._tree.kill()
        while data := _read(self._log_fd):
            self._log.add(data)
        if self._is_orphan or reason == "idle":
            _remove(self._orphaned)
        self._report(
            {
                "event": "end",
                "reason": reason,
                "returncode": returncode,
                "error": error,
                "began": self._began,
                "ended": ended,
                "deadline": self._limit,
                "rate": 1.0 if self._pace is None else self._pace.rate,
                "kill_seconds": time.monotonic() - ended,
                "cpu_seconds": self._tree.cpu_seconds - self._start_cpu_seconds,
                "peak_memory_bytes": self._tree.peak_memory_bytes,
                "log_bytes": self._log.seen,
            }
        )
        return self._log.kept()

    def _start(self) -> None:
        if self._config["own_cores"] is not None:
            os.sched_setaffinity(0, self._config["own_cores"])
        self._log_fd, log_write = os.pipe()
        os.set_blocking(self._log_fd, False)
        # SIGCHLD wakes the selector, so that an end is seen at once and not at the next poll.
        self._wake_fd, wake_write = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for fd in (sys.stdin.fileno(), self._wake_fd, self._log_fd, self._config["reply"]):
            self._selector.register(fd, selectors.EVENT_READ)
        self._tree.start(
            self._config["command"],
            self._config["cores"],
            env=self._config["environment"],
            cwd=self._config["folder"],
            pass_fds=self._config["box_fds"],
            stdin=subprocess.DEVNULL,
            stdout=log_write,
            stderr=log_write,
        )
        for fd in (*self._config["box_fds"], log_write):
            os.close(fd)
        if self._config["pace"] is not None:  # while torch is imported, nobody waits for this
            self._pace_module = _load(self._config["pace"][0])

    def _watch(self) -> str:
        """Wait until something ends the box, and return the reason: one word."""
        if reason := self._take_orders():  # that came with the configuration
            return reason
        while True:
            now = time.monotonic()
            if now >= self._limit:
                return "deadline" if self._handed_over else "idle" if self._is_ready else "start"
            if now >= self._next_piece:
                self._keep_pace(now)
            if now >= self._next_look:
                if reason := self._look(now):
                    return reason
            wake = min(self._next_look, self._next_piece, self._limit)
            for key, _ in self._selector.select(wake - now):
                if key.fd == self._log_fd:
                    reason = self._drain()
                elif key.fd == self._wake_fd:
                    reason = self._reap()
                elif key.fd == self._config["reply"]:
                    self._take_ready_line()
                    reason = ""
                else:
                    reason = self._listen()
                if reason:
                    return reason

    def _keep_pace(self, now: float) -> None:
        """Move the deadline to where the machine's speed so far puts it, and tell the box."""
        assert self._order is not None
        budget = self._order["run_seconds"]
        settled = max(_SETTLED_SHARE * budget, min(_SETTLED_SECONDS, budget / 2))
        if self._limit - now <= settled:
            self._next_piece = math.inf
            return
        self._pace.measure()
        self._pace.observe(
            self._tree.cpu_seconds - self._start_cpu_seconds,
            max(0.0, self._tree.looked_at - self._start_time),
        )
        target = self._start_time + budget / self._pace.rate
        self._limit = max(time.monotonic() + settled, target)
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it need not listen
            os.write(self._config["pace"][1], struct.pack("<d", self._limit))
        self._next_piece = time.monotonic() + _PIECE_SECONDS

    def _has_used_too_much(self) -> bool:
        """Tell whether more was computed than the budget allows, whatever the clock said."""
        if self._pace is None or self._order is None:
            return False
        used = self._pace.work_of(self._tree.cpu_seconds - self._start_cpu_seconds)
        return bool(used > _MOST_USED * self._order["run_seconds"])

    def _look(self, now: float) -> str:
        at_files = now >= self._next_disk_look
        processes, threads, memory = self._tree.look(at_files=at_files)
        most = self._config["processes"]
        reason = ""
        if os.getppid() != self._parent:  # the guard was killed
            return "abandoned"
        if memory > self._config["memory_bytes"] or self._tree.nameless.are_too_many:
            reason = "memory"
        elif processes > most or threads > _THREADS * most:
            reason = "processes"
        elif at_files:
            self._next_disk_look = now + _DISK_LOOK_SECONDS
            left = self._config["disk_bytes"] - self._tree.nameless.disk_bytes
            files = self._config["files"]
            if (
                _is_full(self._config["folder"], left, files)
                or self._tree.files_in(self._config["memory_folders"]) > files
            ):
                reason = "disk"
        idle = self._is_ready and not self._handed_over
        pause = max(_POLL_SECONDS, (time.monotonic() - now) / _LOOK_SHARE)
        self._next_look = now + (
            _SLOWEST_LOOK_SECONDS if idle else min(pause, _SLOWEST_LOOK_SECONDS)
        )
        return reason

    def _drain(self) -> str:
        if data := _read(self._log_fd):
            self._log.add(data)
        else:
            self._selector.unregister(self._log_fd)
        return "log" if self._log.seen > self._config["flood_bytes"] else ""

    def _reap(self) -> str:
        _read(self._wake_fd)
        if not self._tree.reap():
            return ""
        if not self._handed_over:
            return "start"
        if time.monotonic() >= self._limit:  # it ended late, while we looked elsewhere
            return "deadline"
        code = self._tree.returncode or 0
        if self._config["signal_codes"] and 128 < code <= 128 + signal.NSIG:
            code = self._tree.returncode = 128 - code
        return "signal" if code < 0 else "exit" if code else "ok"

    def _take_ready_line(self) -> None:
        reply = self._config["reply"]
        data = os.read(reply, _LINE_BYTES)
        self._ready_line += data
        if self._ready_line.endswith(b"\n"):
            self._selector.unregister(reply)
            self._is_ready = True
            if self._config["start_lock"] is not None:
                os.close(self._config["start_lock"])
            self._report({"event": "ready"})
            self._limit = time.monotonic() + self._config["idle_seconds"]
            self._hand_over()
        elif not data or len(self._ready_line) > _LINE_BYTES:
            self._selector.unregister(reply)  # no launcher: it ends soon, or the allowance does

    def _listen(self) -> str:
        data = os.read(sys.stdin.fileno(), _READ_BYTES)
        self._is_orphan = not data
        self._received += data
        return self._take_orders() if data else "abandoned"

    def _take_orders(self) -> str:
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "stop" in order:
                return "abandoned"
            self._order = order
            self._orphaned = self._orphaned + order["orphaned"]
            self._hand_over()
        return ""

    def _hand_over(self) -> None:
        """Hand the task to the launcher, once there are both."""
        if not self._is_ready or self._order is None:
            return
        if self._order["cores"] is not None:
            self._tree.move(self._order["cores"])
        if self._order["reference_seconds"] is not None:
            core = min(self._order["cores"])
            self._pace = self._pace_module.Pace(
                self._order["reference_seconds"], core, longest=self._order["longest"]
            )
        self._tree.look(at_files=False)
        self._start_cpu_seconds = self._tree.cpu_seconds
        start = self._start_time = time.monotonic()
        self._limit = start + self._order["run_seconds"]
        self._handed_over = True
        task = {**self._order["task"], "start": start, "deadline": self._limit}
        try:
            os.write(self._config["control"], json.dumps(task).encode("ascii") + b"\n")
        except BrokenPipeError:  # it ended just now: the next turn of the loop sees that
            pass
        # From here on the parent alone talks to the box; its closing `control` is the box's EOF.
        os.close(self._config["control"])
        os.close(self._config["reply"])
        self._next_look = start
        if self._pace is not None:
            self._next_piece = start
        self._report({"event": "handed over", "start": start, "deadline": self._limit})


def _is_full(folder: str, most_bytes: int, most_files: int) -> bool:
    """Tell whether a folder's files take more disk space than they may; holes do not count.

    Looking must not take long, whatever edited code has made there: too many files, or folders
    too deep in one another or closed to be looked into, are too much as well.
    """
    if most_bytes < 0:
        return True
    size = count = 0
    closed: list[OSError] = []
    for path, folders, names in os.walk(folder, onerror=closed.append):
        if any(isinstance(error, PermissionError) for error in closed):
            return True
        count += len(folders) + len(names)
        if count > most_files or len(path) - len(folder) > _DEEPEST_PATH:
            return True
        for name in names:
            try:
                size += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:  # gone meanwhile
                pass
        if size > most_bytes:
            return True
    return any(isinstance(error, PermissionError) for error in closed)


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("pace", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _remove(folders: list[str]) -> None:
    # These programs go as deep as there are folders.
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run(
            [*command, "--", *folders], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def _read(fd: int) -> bytes:
    """What a non-blocking descriptor holds; empty when nothing, or when it has ended."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return b""


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _supervise(report_fd: int) -> None:
    received = b""
    while b"\n" not in received:
        data = os.read(sys.stdin.fileno(), _READ_BYTES)
        if not data:
            return
        received += data
    config, received = received.split(b"\n", 1)

    def report(event: dict[str, Any]) -> None:
        _write(report_fd, json.dumps(event).encode("ascii") + b"\n")

    try:
        _write(report_fd, _Supervision(json.loads(config), report, received).run())
    except BrokenPipeError:  # nobody is left to tell; the tree is dead
        pass


def _guard(supervisor: int, report_fd: int) -> None:
    """Wait for the supervisor; then nothing of its box may be left."""
    # Not the report's end: the parent sees that when the tree is dead.
    os.closerange(0, report_fd)
    os.closerange(report_fd + 1, os.sysconf("SC_OPEN_MAX"))

    def reap() -> bool:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                return False

    os.waitpid(supervisor, 0)
    if not reap():
        _kill_descendants(psutil.Process(), reap)


def main() -> None:
    report_fd = int(sys.argv[1])
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guard = os.getpid()
    supervisor = os.fork()
    if supervisor:
        _guard(supervisor, report_fd)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, and so kills the tree
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == guard:
        _supervise(report_fd)


if __name__ == "__main__":
    main()
