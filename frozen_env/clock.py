"""The budget as the edited script sees it."""

from __future__ import annotations

import os
import struct
import time


__all__ = ["BudgetClock"]

_SAVE_SECONDS = 0.3
_DEADLINE = struct.Struct("<d")


class BudgetClock:
    """Counts to the same deadline as the supervisor outside, less the margin for saving.

    Code that ignores this clock gains no more than the margin: at the deadline it is killed.

    Args:
        start: ``time.monotonic()`` at which the edited source was handed over, in seconds.
        deadline: The supervisor's deadline on the same clock.
        save_margin: Fraction of the budget kept back for saving.
        max_tokens: Training tokens after which the budget is used up whatever the time.
        pace_fd: Where the supervisor tells, in ``<d`` each, that the deadline has moved; never
            blocks.
    """

    def __init__(
        self,
        start: float,
        deadline: float,
        save_margin: float,
        max_tokens: float,
        pace_fd: int | None = None,
    ) -> None:
        self._start = start
        self._deadline = deadline
        budget = deadline - start
        # Saving takes a quarter of a second however short the budget is.
        self._save_seconds = max(save_margin * budget, min(_SAVE_SECONDS, budget / 2))
        self._pace_fd = pace_fd
        self._max_tokens = max_tokens
        self._tokens = 0

    def serve(self, tokens: int) -> None:
        """Count training tokens handed to the edited script."""
        self._tokens += tokens

    def used(self) -> float:
        """Fraction of the budget used: 0 at the start, at least 1 when training must end."""
        if self._pace_fd is not None:
            self._follow(self._pace_fd)
        seconds = self._deadline - self._save_seconds - self._start
        share = (time.monotonic() - self._start) / seconds
        return max(share, self._tokens / self._max_tokens)

    def _follow(self, pace_fd: int) -> None:
        try:
            told = os.read(pace_fd, 512 * _DEADLINE.size)
        except BlockingIOError:
            return
        if told:
            (self._deadline,) = _DEADLINE.unpack(told[-_DEADLINE.size :])
