"""Which cores a trial trains on, and which are free to start boxes ahead of their use.

A trial trains on cores of its own, so that neither its neighbours nor an edit that starts more
threads changes what its budget is worth. Trials of one machine, in whatever thread or process,
agree by locks on small files: ``trains-N`` is held as long as a trial has core N, ``starts-N``
while a box starts there ahead of its use. Locks end with the process that holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import random
from types import TracebackType


__all__ = ["CoreClaim", "start_lock"]


class CoreClaim:
    """Cores for one trial, for as long as it lasts. A context manager.

    Attributes:
        cores: The cores; as many as asked for, unless the machine has fewer.
        others: Cores of this process that are not among them; empty if there were not enough free
            cores, so that this trial has to share.

    Args:
        count: How many; 0 takes all that this process may use, without a claim.
    """

    def __init__(self, count: int) -> None:
        available = sorted(os.sched_getaffinity(0))
        self._locks: list[int] = []
        self.cores: list[int] = []
        self.others: list[int] = []
        if not 0 < count < len(available):
            self.cores = available
            return
        for core in available:
            if len(self.cores) < count and (lock := _lock(f"trains-{core}")) is not None:
                self._locks.append(lock)
                self.cores.append(core)
        if len(self.cores) < count:
            self._release()
            self.cores = sorted(random.sample(available, count))
            return
        self.others = [core for core in available if core not in self.cores]
        for core in self.cores:  # what starts there now has seen no claim: a second or two
            lock = _lock(f"starts-{core}", wait=True)
            if lock is not None:
                os.close(lock)

    def __enter__(self) -> CoreClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep this thread off the trial's cores meanwhile, if there are others."""
        own = os.sched_getaffinity(0)
        if self.others:
            os.sched_setaffinity(0, self.others)
        try:
            yield
        finally:
            os.sched_setaffinity(0, own)

    def _release(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks = []


def start_lock(cores: list[int]) -> tuple[int, int] | None:
    """Find one of these cores on which nobody trains, and keep trials off it for a moment.

    Returns:
        The core, and a descriptor: the core is kept until every copy of it is closed. :obj:`None`
        if there is no such core.
    """
    for core in cores:
        lock = _lock(f"starts-{core}")
        if lock is None:
            continue
        in_use = _lock(f"trains-{core}", shared=True)
        if in_use is not None:
            os.close(in_use)
            return core, lock
        os.close(lock)
    return None


def _lock(name: str, *, shared: bool = False, wait: bool = False) -> int | None:
    """Lock a file; returns its descriptor, or None if somebody else has it."""
    import fcntl  # Windows has none, and is refused in a sentence by what imports this

    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(_folder() / name, flags, 0o600)
    except OSError:  # then nobody's cores are his own
        return None
    try:
        fcntl.flock(
            fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        )
    except OSError:
        os.close(fd)
        return None
    return fd


def _folder() -> Path:
    # Not tempfile's folder: processes of one user with different TMPDIR share the cores too.
    folder = Path("/tmp") / f"arrl-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder
