"""How fast the machine is while a trial trains, by small pieces of reference work.

A core of a shared machine does a tenth more or less in the same seconds, in spells of half a
minute that nothing tells beforehand, and others may take some of its time. So the supervisor times
a piece of work on the trial's core ten times a second, and budget seconds pass at the rate

    (share of the core that the trial had) · (reference seconds of a piece / mean CPU seconds).

The mean, not the median: what is stolen from the core hits few pieces, and as many of them as its
share of the time. ``python -I _pace.py`` measures the reference of a machine. The supervisor loads
this file by its path: it imports nothing of this package.
"""

from __future__ import annotations

import os
import time


# Before numpy: only the thread that times itself is to work.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np


__all__ = ["Pace"]

_FASTEST = 2.0
_USUAL_SHARE = 0.95  # what the pieces themselves leave of a core
# At first little has been seen: as if so much had been before, at the usual share and speed.
_PRIOR_SECONDS, _PRIOR_PIECES = 0.3, 2
_PIECES = 200
_CACHE_BYTES = 32 << 20


class Pace:
    """The speed of one core, and how much of it a trial has.

    Args:
        reference_seconds: Of a piece, where a budget second is a second.
        core: Where the trial trains.
        longest: Wall seconds of a budget second at most, so that nothing stretches a trial
            without end: no other machine's reference, no busy machine, no sleep.
    """

    def __init__(self, reference_seconds: float, core: int, *, longest: float) -> None:
        self._reference_seconds = reference_seconds
        self._core = core
        self._slowest = 1.0 / longest
        self._work = _Work()
        self._seconds = _PRIOR_PIECES * reference_seconds
        self._count = _PRIOR_PIECES
        self._share = _USUAL_SHARE

    def measure(self) -> None:
        """Time one piece on the trial's core, and go back to where this thread was."""
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._core})
        try:
            self._seconds += self._work.seconds()
            self._count += 1
        finally:
            os.sched_setaffinity(0, own)

    def observe(self, cpu_seconds: float, wall_seconds: float) -> None:
        """Take note of what the trial had of the core since it began."""
        prior = _USUAL_SHARE * _PRIOR_SECONDS
        self._share = (cpu_seconds + prior) / (wall_seconds + _PRIOR_SECONDS)

    def work_of(self, cpu_seconds: float) -> float:
        """Budget seconds that so many CPU seconds are worth, at the speed so far."""
        speed = self._reference_seconds * self._count / self._seconds
        return cpu_seconds / _USUAL_SHARE * speed

    @property
    def rate(self) -> float:
        """Budget seconds per wall second so far; 1 before the first piece."""
        return min(max(self.work_of(self._share), self._slowest), _FASTEST)


class _Work:
    """A layer of a small model and its softmax, in the sizes of the cpu profile: about 6 ms."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._x = rng.standard_normal((384, 96), dtype=np.float32)
        self._up = rng.standard_normal((96, 384), dtype=np.float32)
        self._head = rng.standard_normal((384, 1024), dtype=np.float32)
        self.seconds()  # the first is slower: memory has to be found

    def seconds(self) -> float:
        """CPU seconds of doing it once."""
        start = time.thread_time()
        hidden = np.maximum(self._x @ self._up, 0.0)
        logits = hidden @ self._head
        np.tanh(logits, out=logits)
        np.exp(logits, out=logits)
        logits.sum(axis=1)
        return time.thread_time() - start


def _measure_reference() -> float:
    """Mean CPU seconds of a piece that follows other work, as while a trial trains."""
    work = _Work()
    other = np.zeros(_CACHE_BYTES // 4, dtype=np.float32)
    total = 0.0
    for _ in range(_PIECES):
        np.add(other, 1.0, out=other)  # what is in the caches now is not the piece's
        total += work.seconds()
    return total / _PIECES


if __name__ == "__main__":
    print(_measure_reference())
