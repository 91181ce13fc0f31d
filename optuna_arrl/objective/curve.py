"""The learning curve, as edited code tells it."""

from __future__ import annotations

import json
import math


__all__ = ["Curve"]

_LINE_BYTES = 512
_MAX_STEP = 1 << 53
_MAX_BPB = 1000.0


class Curve:
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
        self._rest = self._rest[: _LINE_BYTES + 1]  # longer than that is no point anyway
        known = len(self.points)
        for line in lines:
            self._take(line)
        return self.points[known:]

    def _take(self, line: bytes) -> None:
        if len(line) > _LINE_BYTES:
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
