"""Carries out the frozen evaluation on a model that answers from inside a box.

Tokens go in, logits come out; targets, softmax and byte counts never leave this side. Every read
has a deadline and an exact length. What a box says is data: numbers, or a reason to refuse it.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import math
import os
import select
import struct
import time

import numpy as np
from numpy.typing import NDArray

from optuna_arrl.frozen_env.evaluation import bits_per_byte
from optuna_arrl.frozen_env.evaluation import Probe
from optuna_arrl.frozen_env.evaluation import token_nats
from optuna_arrl.frozen_env.evaluation import Windows


__all__ = [
    "Channel",
    "ChannelClosed",
    "Leak",
    "Precision",
    "WrongAnswer",
    "answer_windows",
    "credited_bits_per_byte",
    "probe_leak",
]

_REQUEST = struct.Struct("<IIB")
_REPLY = struct.Struct("<BQ")
# A batch's logits in float32, at most, unless a single window takes more. Small, because the same
# windows take half as long in batches of 8 MiB as of 64 MiB: less fresh memory on both sides.
_REPLY_BYTES = 8 << 20
_LINE_BYTES = 4096


@dataclass(frozen=True)
class Precision:
    """A kind of logits, and what rounding alone can do to it.

    The bounds are on d = (loss without the future) - (loss with it), nats per token. Measured with
    honest models: float32 on a CPU differs by up to 1e-5 between shapes of a batch; 16-bit
    arithmetic by up to 0.03 a position, its mean by 2e-5.
    """

    name: str
    item_bytes: int
    position_bound: float
    mean_bound: float


_PRECISIONS = {
    0: Precision("float32", 4, position_bound=0.001, mean_bound=0.0003),
    1: Precision("float16", 2, position_bound=0.25, mean_bound=0.003),
    2: Precision("bfloat16", 2, position_bound=0.25, mean_bound=0.003),
}
# On a GPU float32 logits usually come out of 16-bit or TF32 matrix products.
_ROUNDED = Precision("float32", 4, position_bound=0.25, mean_bound=0.003)


class WrongAnswer(ValueError):
    """The model answered, but not with finite logits of the right shape."""


class ChannelClosed(Exception):
    """The box ended, or did not answer in time."""


class Channel:
    """Asks the model in a box for logits.

    Args:
        control: File descriptor that requests are written to.
        reply: File descriptor that answers are read from.
        deadline: ``time.monotonic()`` after which no answer is waited for, in seconds.
        vocab_size: V, the length of every row of logits.
        rounded: True where float32 answers come from arithmetic of lower precision (a GPU).
    """

    def __init__(
        self, control: int, reply: int, *, deadline: float, vocab_size: int, rounded: bool
    ) -> None:
        os.set_blocking(control, False)
        os.set_blocking(reply, False)
        self.vocab_size = vocab_size
        self.precision: Precision | None = None
        self._control = control
        self._reply = reply
        self._deadline = deadline
        self._rounded = rounded

    def wait_until_loaded(self) -> None:
        """Read the launcher's ``{"loaded": true}``.

        Raises:
            ChannelClosed: The box ended first, for instance because the weights do not fit.
            WrongAnswer: Something else was written.
        """
        line = b""
        while not line.endswith(b"\n"):
            if len(line) == _LINE_BYTES:
                raise WrongAnswer("the model wrote to the scorer before it was asked")
            line += self._read(1)
        try:
            loaded = json.loads(line) == {"loaded": True}
        except (ValueError, RecursionError):
            loaded = False
        if not loaded:
            raise WrongAnswer("the model wrote to the scorer before it was asked")

    def logits(self, tokens: NDArray[np.int32], *, last_only: bool) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            tokens: (B, T) token ids.
            last_only: Ask for the last position only.

        Returns:
            (B, T, V), or (B, V) if ``last_only``.

        Raises:
            ChannelClosed: No answer: the box ended, or the deadline passed.
            WrongAnswer: An answer of another size or type, or of another type than before.
        """
        rows, length = tokens.shape
        self._write(_REQUEST.pack(rows, length, last_only) + tokens.astype("<i4").tobytes())
        kind, n_bytes = _REPLY.unpack(self._read(_REPLY.size))
        precision = _PRECISIONS.get(kind)
        if precision is None:
            raise WrongAnswer("the model answered with logits of an unknown type")
        if self._rounded and precision.name == "float32":
            precision = _ROUNDED
        if self.precision not in (None, precision):
            raise WrongAnswer("the model answered with logits of more than one type")
        self.precision = precision
        shape = (rows, self.vocab_size) if last_only else (rows, length, self.vocab_size)
        if n_bytes != math.prod(shape) * precision.item_bytes:
            raise WrongAnswer(
                f"the model answered {n_bytes} bytes of {precision.name} logits to {rows} x "
                f"{length} tokens: one row of VOCAB_SIZE = {self.vocab_size} logits is needed "
                "for each token"
            )
        return _as_float32(self._read(n_bytes), precision.name).reshape(shape)

    def _read(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            self._wait(self._reply, select.POLLIN)
            try:
                got = os.readv(self._reply, [view])
            except BlockingIOError:
                continue
            if not got:
                raise ChannelClosed("the box has ended")
            view = view[got:]
        return data

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._control, select.POLLOUT)
            try:
                view = view[os.write(self._control, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise ChannelClosed("the box has ended") from None

    def _wait(self, fd: int, event: int) -> None:
        # poll, not select: descriptors may be above 1024 in a large study.
        poll = select.poll()
        poll.register(fd, event)
        if not poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000.0):
            raise ChannelClosed("the box did not answer in time")


def _as_float32(data: bytearray, kind: str) -> NDArray[np.float32]:
    if kind == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if kind == "float16" else "<f4").astype(
        np.float32, copy=False
    )


def answer_windows(
    channel: Channel, windows: Windows, rng: np.random.Generator
) -> tuple[NDArray[np.float64], Precision]:
    """Loss of every target of the validation windows, asked for in random order.

    Args:
        channel: A fresh box.
        windows: N windows of T tokens.
        rng: Draws the order; must not be known to the box.

    Returns:
        (N, T) nats, and the kind of logits they come from.

    Raises:
        ChannelClosed: The box ended, or was too slow.
        WrongAnswer: Logits that are not finite, or not of the right shape.
    """
    count, length = windows.inputs.shape
    nats = np.empty((count, length))
    for rows in _batches(rng.permutation(count), length, channel.vocab_size):
        logits = channel.logits(windows.inputs[rows], last_only=False)
        nats[rows] = _nats(logits, windows.targets[rows])
    assert channel.precision is not None
    return nats, channel.precision


@dataclass(frozen=True)
class Leak:
    """What a model loses, at K probed positions, when it is not shown the tokens that follow.

    Attributes:
        mean: Importance-weighted mean of d, nats per token: the estimated profit of the leak.
        standard_error: Of that mean.
        largest: Largest \\|d\\|.
        changed: Number of positions where \\|d\\| is more than rounding can explain.
        probed: K.
        mean_bound: What rounding can do to the mean.
    """

    mean: float
    standard_error: float
    largest: float
    changed: int
    probed: int
    mean_bound: float

    @property
    def reason(self) -> str | None:
        """Why the score cannot be credited, in a sentence; :obj:`None` if it can."""
        if self.changed:
            return (
                f"the model reads the next token: at {self.changed} of {self.probed} probed "
                "positions its answer changed when the later tokens were taken away"
            )
        if self.mean > self.mean_bound:
            return (
                f"the model reads the next token: over {self.probed} probed positions its loss "
                f"rose by {self.mean:.4f} nats per token when the later tokens were taken away"
            )
        return None


def probe_leak(
    channel: Channel,
    windows: Windows,
    nats: NDArray[np.float64],
    probe: Probe,
    precision: Precision,
) -> Leak:
    """Ask a fresh box about truncated prefixes, and compare with what the first one said.

    Args:
        channel: A box that has seen nothing of the validation text.
        windows: N windows of T tokens.
        nats: (N, T) loss with the whole window in view.
        probe: K positions, drawn after the first box had ended.
        precision: Of the first box's logits; this one must answer in the same.

    Raises:
        ChannelClosed: The box ended, or was too slow.
        WrongAnswer: Logits that are not finite, not of the right shape, or of another type.
    """
    difference = np.empty(len(probe.position))
    for position in np.random.default_rng().permutation(np.unique(probe.position)):
        # Prefixes of equal length go together: no padding, which would be a suffix.
        same = np.flatnonzero(probe.position == position)
        for rows in _batches(same, position + 1, channel.vocab_size):
            window = probe.window[rows]
            logits = channel.logits(windows.inputs[window, : position + 1], last_only=True)
            truncated = _nats(logits, windows.targets[window, position])
            difference[rows] = truncated - nats[window, position]
    if channel.precision != precision:
        raise WrongAnswer("the model answered with logits of more than one type")
    mean = float(probe.weight @ difference)
    return Leak(
        mean=mean,
        standard_error=float(np.sqrt(probe.weight**2 @ (difference - mean) ** 2)),
        largest=float(np.abs(difference).max()),
        changed=int((np.abs(difference) > precision.position_bound).sum()),
        probed=len(difference),
        mean_bound=precision.mean_bound,
    )


def credited_bits_per_byte(
    nats: NDArray[np.float64], target_bytes: NDArray[np.int32], leak_mean: float
) -> float:
    """Bits per byte of the scored targets, with what the leak earned taken back.

    Args:
        nats: (N, T) losses.
        target_bytes: (N, T); targets of no bytes are not scored.
        leak_mean: Estimated profit of a leak, nats per token; a negative one is not paid out.
    """
    scored = target_bytes > 0
    total = float(nats[scored].sum()) + max(0.0, leak_mean) * int(scored.sum())
    return bits_per_byte(total, int(target_bytes.sum()))


def _nats(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    try:
        return token_nats(logits, targets)
    except ValueError as e:
        raise WrongAnswer(str(e)) from None


def _batches(index: NDArray[np.int64], length: int, vocab_size: int) -> list[NDArray[np.int64]]:
    size = max(1, _REPLY_BYTES // (4 * length * vocab_size))
    return [index[i : i + size] for i in range(0, len(index), size)]
