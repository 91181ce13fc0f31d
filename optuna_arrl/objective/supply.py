"""Boxes for trials: started when needed, or ahead of their use on cores where nobody trains.

Most of a box's start is importing torch. A box that was started ahead is already inside its
sandbox and waits on a pipe for its task; no edited code has been near it. It is used once, like
any other, and ended if it is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Literal
import weakref

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import Profile
from optuna_arrl.objective.boxes import Limits
from optuna_arrl.objective.boxes import our_own
from optuna_arrl.objective.boxes import SupervisedBox
from optuna_arrl.objective.cores import CoreClaim
from optuna_arrl.objective.cores import start_lock
from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import box_environment
from optuna_arrl.objective.sandbox import Sandbox


__all__ = ["BoxSupply", "Mode", "StartedBox", "box_limits"]

Mode = Literal["train", "answer"]

_FROZEN_ENV = Path(__file__).parents[1] / "frozen_env"
_CONFINE = Path(__file__).with_name("_confine.py")


@dataclass(frozen=True)
class StartedBox:
    """A box that waits for its task.

    Attributes:
        supervised: The process.
        folder: Holds all of its files.
        inbox: What is put here the box can read, and nothing else can change.
        scratch: Its working folder.
    """

    supervised: SupervisedBox
    folder: Path
    inbox: Path
    scratch: Path


def box_limits(profile: Profile) -> Limits:
    """What every box of a profile may use."""
    return Limits(
        start_seconds=profile.start_seconds,
        memory_bytes=profile.memory_bytes,
        disk_bytes=profile.disk_bytes,
    )


class BoxSupply:
    """Gives out boxes for one profile.

    Args:
        prepared: Data, sizes and limits.
        sandbox: What every box runs in.
    """

    def __init__(self, prepared: Prepared, sandbox: Sandbox) -> None:
        self._prepared = prepared
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._spares: dict[Mode, list[StartedBox]] = {"train": [], "answer": []}
        self._process = os.getpid()
        # Also when the interpreter ends; in a forked process they are not ours to end.
        self._end = weakref.finalize(self, _end_spares, self._spares, self._process)

    def close(self) -> None:
        """End the boxes that nobody has used."""
        with self._lock:
            _end_spares(self._spares, self._process)

    def start_ahead(self, counts: dict[Mode, int], claim: CoreClaim) -> None:
        """See to it that boxes are ready or starting, if there is a core for them.

        Args:
            counts: How many there shall be of each kind; those needed first come first.
            claim: The cores of the trial that goes on meanwhile.
        """
        with self._lock:
            self._after_fork()
            missing: list[Mode] = [
                mode
                for mode, count in counts.items()
                for _ in range(count - len(self._spares[mode]))
            ]
            place = start_lock(claim.others) if missing else None
            if place is None:
                return
            core, lock = place
            try:
                for mode in missing:
                    self._spares[mode].append(
                        self._start(mode, cores=[core], own_cores=[core], lock=lock)
                    )
            finally:
                os.close(lock)

    @contextmanager
    def box(self, mode: Mode, claim: CoreClaim) -> Iterator[StartedBox]:
        """A box for one use; at the end of the context it is dead, and its files are gone.

        Raises:
            MachineFault: None could be started.
        """
        started = self._take_spare(mode)
        if started is None:
            started = self._start(mode, cores=claim.cores, own_cores=claim.others or None)
        try:
            with started.supervised:
                yield started
        finally:
            _remove(started.folder)

    def _take_spare(self, mode: Mode) -> StartedBox | None:
        while True:
            with self._lock:
                self._after_fork()
                if not self._spares[mode]:
                    return None
                spare = self._spares[mode].pop(0)
            if spare.supervised.is_ready(wait=True):
                return spare
            _end(spare)  # it waited too long, or something killed it

    def _start(
        self,
        mode: Mode,
        *,
        cores: list[int],
        own_cores: list[int] | None,
        lock: int | None = None,
    ) -> StartedBox:
        profile = self._prepared.profile
        with our_own("a folder for a box could not be made"):
            folder = Path(tempfile.mkdtemp(prefix="arrl-box-"))
        try:
            box = self._furnish(folder, mode)
            # -I ignores PYTHONDONTWRITEBYTECODE, hence -B.
            program = str(box.view / "frozen_env" / "launcher.py")
            launcher = [sys.executable, "-I", "-B", program, mode]
            supervised = SupervisedBox(
                lambda fds: self._sandbox.command(box, [*launcher, *map(str, fds)]),
                environment=box_environment(
                    box,
                    data=self._prepared.folder if mode == "train" else None,
                    profile_json=json.dumps(dataclasses.asdict(profile)),
                    threads=profile.threads,
                ),
                folder=box.scratch,
                limits=box_limits(profile),
                curve=mode == "train",
                paced=mode == "train" and profile.paced,
                cores=cores,
                own_cores=own_cores,
                start_lock=None if lock is None else os.dup(lock),
                signal_codes=self._sandbox.signal_codes,
                memory_folders=tuple(self._sandbox.memory_folders),
                orphaned=(folder,),
            )
        except BaseException:
            _remove(folder)
            raise
        return StartedBox(supervised, folder, box.inbox, box.scratch)

    def _furnish(self, folder: Path, mode: Mode) -> Box:
        view = folder / "view"
        limits = box_limits(self._prepared.profile)
        with our_own("the frozen environment could not be copied"):
            for name in ("inbox", "scratch"):
                (folder / name).mkdir()
            (view / "frozen_env").mkdir(parents=True)
            sources = [(path, view / "frozen_env") for path in _FROZEN_ENV.glob("*.py")]
            for source, place in [*sources, (_CONFINE, view)]:
                copy = place / source.name
                shutil.copyfile(source, copy)
                copy.chmod(0o444)
        return Box(
            view=view,
            inbox=folder / "inbox",
            scratch=folder / "scratch",
            # Where a model is scored there is nothing to train on.
            readable=(self._prepared.folder,) if mode == "train" else (),
            hidden=self._prepared.secrets,
            file_bytes=limits.disk_bytes,
            processes=limits.processes,
            cuda=self._prepared.profile.device == "cuda",
        )

    def _after_fork(self) -> None:
        if os.getpid() != self._process:  # the spares are the parent's
            self._process = os.getpid()
            for spares in self._spares.values():
                for spare in spares:
                    spare.supervised.forget()
                spares.clear()


def _end_spares(spares: dict[Mode, list[StartedBox]], process: int) -> None:
    if os.getpid() != process:
        return
    for waiting in spares.values():
        while waiting:
            _end(waiting.pop())


def _end(spare: StartedBox) -> None:
    try:
        spare.supervised.end()
    finally:
        _remove(spare.folder)


def _remove(folder: Path) -> None:
    """Remove a box's folder, even one that edited code has made unreadable or very deep."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], capture_output=True)
