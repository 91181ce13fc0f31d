"""Inside a box: what an edited script may ask for."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .clock import BudgetClock
from .profiles import Profile


if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["Session", "current", "open_session"]

_SMOOTHING = 0.98
_session: Session | None = None


class Session:
    """One box's view of the frozen environment.

    Args:
        profile: Sizes and budgets.
        clock: The budget; :obj:`None` in boxes that only answer.
        seed: Seeds data order; torch is seeded by the launcher.
        curve_fd: File descriptor for curve points, or :obj:`None`.
    """

    def __init__(
        self, profile: Profile, clock: BudgetClock | None, seed: int, curve_fd: int | None
    ) -> None:
        self.SEQ_LEN = profile.seq_len
        self.VOCAB_SIZE = profile.vocab_size
        self.DEVICE = torch.device(profile.device)
        self.steps = 0
        self._clock = clock
        self._seed = seed
        self._curve_fd = curve_fd
        self._loss: float | None = None
        self._weight = 0.0
        self._last_percent = 0

    def batches(
        self, batch_size: int, length: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless random windows of the training tokens.

        Args:
            batch_size: Windows per batch.
            length: Tokens per window, at most ``SEQ_LEN`` (the default).

        Yields:
            inputs, targets: (batch_size, length) int64 on ``DEVICE``; targets are one token later.
        """
        length = self.SEQ_LEN if length is None else length
        if not 1 <= length <= self.SEQ_LEN:
            raise ValueError(f"`length` must be between 1 and SEQ_LEN = {self.SEQ_LEN}.")
        if self._clock is None:
            raise RuntimeError("There is nothing to train on where a model is scored.")
        tokens = np.fromfile(Path(os.environ["ARRL_DATA"]) / "train.bin", dtype=np.uint16)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
        rng = np.random.default_rng(self._seed)
        cuda = self.DEVICE.type == "cuda"
        while True:
            starts = rng.integers(0, len(windows), size=batch_size)
            batch = torch.from_numpy(windows[starts].astype(np.int64))
            if cuda:
                batch = batch.pin_memory().to(self.DEVICE, non_blocking=True)
            self._clock.serve(batch_size * length)
            yield batch[:, :-1], batch[:, 1:]

    def budget_used(self) -> float:
        """Fraction of the budget used; at least 1 when training must end."""
        return 1.0 if self._clock is None else self._clock.used()

    def report(self, step: int, loss: float | Tensor) -> None:
        """Tell the training loss of a step, in nats per token. A covariate, never a score."""
        self.steps = int(step)
        value = float(loss)
        self._weight = _SMOOTHING * self._weight + 1.0 - _SMOOTHING
        previous = 0.0 if self._loss is None else self._loss
        self._loss = _SMOOTHING * previous + (1.0 - _SMOOTHING) * value
        percent = min(100, int(100 * self.budget_used()))
        if percent > self._last_percent:
            self._tell(percent)

    def finish(self) -> None:
        """Tell the last point: called by the launcher when training has ended."""
        if self._loss is not None:
            self._tell(100)

    def _tell(self, percent: int) -> None:
        self._last_percent = percent
        if self._curve_fd is not None and self._loss is not None:
            loss = self._loss / self._weight
            point = {"step": self.steps, "percent": percent, "loss": loss}
            os.write(self._curve_fd, json.dumps(point).encode("ascii") + b"\n")


def open_session(clock: BudgetClock | None, seed: int, curve_fd: int | None = None) -> Session:
    """Make the session of this box; called once, by the launcher."""
    global _session
    profile = Profile(**json.loads(os.environ["ARRL_PROFILE"]))
    _session = Session(profile, clock, seed, curve_fd)
    return _session


def current() -> Session:
    if _session is None:
        raise RuntimeError(
            "frozen_env has no session: train.py runs inside a trial only (`arrl run`)."
        )
    return _session
