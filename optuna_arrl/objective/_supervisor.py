"""Holds one box to its limits, from a process of its own.

Started as ``python -I _supervisor.py REPORT_FD`` with a one-line JSON configuration on standard
input, which then stays open: its end means "stop, and kill everything". A process of its own, so
that an Optuna process that is stuck, stopped or killed can neither stretch a time limit nor leave
a training run behind. It imports nothing of this package and none of the edited code.

It starts the box's command, waits for the launcher's ready line, hands over the task together with
its start and deadline, and watches: time, memory and number of processes of the whole tree, size
of the log. On REPORT_FD it writes JSON lines, ``{"event": "ready", ...}`` when the task has been
handed over and ``{"event": "end", ...}`` when the tree is dead, followed by what was kept of the
log. Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import psutil


_POLL_SECONDS = 0.05
_LOOK_SHARE = 0.05  # of a core at most: on a machine with many processes we look less often
_SLOWEST_LOOK_SECONDS = 0.5
_KILL_SECONDS = 10.0  # after this a process is stuck in the kernel, and waiting does not help
_READ_BYTES = 1 << 16
_READY_LINE_BYTES = 4096
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._root: int | None = None
        self.returncode: int | None = None
        self.peak_memory_bytes = 0

    def start(self, command: list[str], **options: Any) -> None:
        supervisor = os.getpid()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        def die_with_supervisor() -> None:
            # Fires when the *thread* that forked ends: this process has one thread only.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:
                os._exit(1)

        child = subprocess.Popen(
            command, start_new_session=True, preexec_fn=die_with_supervisor, **options
        )
        self._root = child.pid
        child.returncode = 0  # reaped by `reap`, with the orphans

    def look(self) -> tuple[int, int]:
        """Number of live processes, and the sum of their resident memory in bytes."""
        memory = processes = 0
        for process in self._me.children(recursive=True):
            try:
                memory += process.memory_info().rss
                processes += 1
            except psutil.Error:  # ended meanwhile
                pass
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        return processes, memory

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

    def kill(self) -> None:
        give_up = time.monotonic() + _KILL_SECONDS
        frozen: set[psutil.Process] = set()
        while time.monotonic() < give_up:
            self.reap()
            alive = set(self._me.children(recursive=True))
            if not alive:
                return
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
            ``task``: what is handed over; ``orphaned``: folder to remove when the parent dies, or
            null; ``start_seconds``, ``run_seconds``: time allowed until ready, and from then on;
            ``memory_bytes``, ``processes``: limits of the tree; ``log_bytes`` kept,
            ``flood_bytes`` tolerated.
        report:
            Takes each event.
    """

    def __init__(self, config: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        self._config = config
        self._report = report
        self._began = time.monotonic()
        self._parent = os.getppid()
        self._limit = self._began + config["start_seconds"]
        self._tree = _Tree()
        self._log = _Log(config["log_bytes"])
        self._handed_over = False
        self._ready_line = b""
        self._selector = selectors.DefaultSelector()
        self._next_look = self._began

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
        finally:
            self._tree.kill()
        while data := _read(self._log_fd):
            self._log.add(data)
        self._report(
            {
                "event": "end",
                "reason": reason,
                "returncode": returncode,
                "error": error,
                "began": self._began,
                "ended": ended,
                "kill_seconds": time.monotonic() - ended,
                "peak_memory_bytes": self._tree.peak_memory_bytes,
                "log_bytes": self._log.seen,
            }
        )
        return self._log.kept()

    def _start(self) -> None:
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
            env=self._config["environment"],
            cwd=self._config["folder"],
            pass_fds=self._config["box_fds"],
            stdin=subprocess.DEVNULL,
            stdout=log_write,
            stderr=log_write,
        )
        for fd in (*self._config["box_fds"], log_write):
            os.close(fd)

    def _watch(self) -> str:
        """Wait until something ends the box, and return the reason: one word."""
        while True:
            now = time.monotonic()
            if now >= self._limit:
                return "deadline" if self._handed_over else "start"
            if now >= self._next_look:
                if reason := self._look(now):
                    return reason
            for key, _ in self._selector.select(min(self._next_look, self._limit) - now):
                if key.fd == self._log_fd:
                    reason = self._drain()
                elif key.fd == self._wake_fd:
                    reason = self._reap()
                elif key.fd == self._config["reply"]:
                    self._take_ready_line()
                    reason = ""
                else:  # our standard input: nothing follows the configuration but its end
                    reason = "" if os.read(key.fd, _READ_BYTES) else "abandoned"
                if reason:
                    return reason

    def _look(self, now: float) -> str:
        processes, memory = self._tree.look()
        pause = max(_POLL_SECONDS, (time.monotonic() - now) / _LOOK_SHARE)
        self._next_look = now + min(pause, _SLOWEST_LOOK_SECONDS)
        if memory > self._config["memory_bytes"]:
            return "memory"
        if processes > self._config["processes"]:
            return "processes"
        # Seen even when a fork of the parent still holds the other end of our standard input.
        return "abandoned" if os.getppid() != self._parent else ""

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
        code = self._tree.returncode or 0
        return "signal" if code < 0 else "exit" if code else "ok"

    def _take_ready_line(self) -> None:
        reply = self._config["reply"]
        data = os.read(reply, _READY_LINE_BYTES)
        self._ready_line += data
        if self._ready_line.endswith(b"\n"):
            self._selector.unregister(reply)
            self._hand_over()
        elif not data or len(self._ready_line) > _READY_LINE_BYTES:
            self._selector.unregister(reply)  # no launcher: it ends soon, or the allowance does

    def _hand_over(self) -> None:
        start = time.monotonic()
        self._limit = start + self._config["run_seconds"]
        self._handed_over = True
        task = {**self._config["task"], "start": start, "deadline": self._limit}
        try:
            os.write(self._config["control"], json.dumps(task).encode("ascii") + b"\n")
        except BrokenPipeError:  # it ended just now: the next turn of the loop sees that
            pass
        # From here on the parent alone talks to the box; its closing `control` is the box's EOF.
        os.close(self._config["control"])
        os.close(self._config["reply"])
        self._report({"event": "ready", "start": start, "deadline": self._limit})


def _read(fd: int) -> bytes:
    """What a non-blocking descriptor holds; empty when nothing, or when it has ended."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return b""


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> None:
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(sys.stdin.fileno(), _READ_BYTES)
        if not data:
            return
        line += data
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, and so kills the tree
    report_fd, parent = int(sys.argv[1]), os.getppid()

    def report(event: dict[str, Any]) -> None:
        _write(report_fd, json.dumps(event).encode("ascii") + b"\n")

    config = json.loads(line)
    try:
        _write(report_fd, _Supervision(config, report).run())
    except BrokenPipeError:  # nobody is left to tell; the tree is dead
        pass
    if config["orphaned"] is not None and os.getppid() != parent:
        shutil.rmtree(config["orphaned"], ignore_errors=True)


if __name__ == "__main__":
    main()
