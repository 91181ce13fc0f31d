"""Carries out the frozen evaluation on a model that answers from inside a box.

Tokens go in, logits come out; targets, softmax and byte counts never leave this side. Every read
has a deadline and an exact length. What a box says is data: numbers, or a reason to refuse it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
import os
import re
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
    "Answers",
    "Channel",
    "ChannelClosed",
    "Leak",
    "Precision",
    "TooSlow",
    "WrongAnswer",
    "answer_windows",
    "credited_bits_per_byte",
    "leak_of",
    "may_round",
    "probe_leak",
]

_REQUEST = struct.Struct("<IIB")
_REPLY = struct.Struct("<BQ")
# A batch's logits in float32, at most, unless a single window takes more. Small, because the same
# windows take half as long in batches of 8 MiB as of 64 MiB: less fresh memory on both sides.
_REPLY_BYTES = 8 << 20
# Two requests must fit into a pipe of 64 KiB: one is sent while the model works on the other.
_REQUEST_BYTES = 30 << 10
_LINE_BYTES = 4096
_BATCH_CHECKS = 8
# Batches that box 2 is asked for, at least: some are asked for again, and the rest are probed.
_LEAST_BATCHES = 8
# What a loss may change by when the same batch is put to another process, on a CPU: the same
# arithmetic in the same order. On a GPU kernels may be chosen by how fast they happened to be.
_REPEAT_BOUND = 0.001


@dataclass(frozen=True)
class Precision:
    """A kind of logits, and what rounding alone can do to it.

    The bounds are on d = (loss without the future) - (loss with it), nats per token: on \\|d\\| at
    any position, on the root of the mean of d², on the mean. Measured with honest models: float32
    on a CPU differs by up to 1e-5 between shapes of a batch; 16-bit arithmetic by up to 0.03 at a
    position, .003 in the root mean square, 2e-5 in the mean.
    """

    name: str
    item_bytes: int
    position_bound: float
    spread_bound: float
    mean_bound: float


_OF_FLOAT32 = {"position_bound": 0.001, "spread_bound": 0.0005, "mean_bound": 0.0003}
_OF_16_BITS = {"position_bound": 0.25, "spread_bound": 0.02, "mean_bound": 0.003}
_PRECISIONS = {
    0: Precision("float32", 4, **_OF_FLOAT32),
    1: Precision("float16", 2, **_OF_16_BITS),
    2: Precision("bfloat16", 2, **_OF_16_BITS),
}
# Float32 logits that come out of 16-bit or TF32 matrix products.
_ROUNDED = Precision("float32", 4, **_OF_16_BITS)
_COARSE_ARITHMETIC = re.compile(
    r"bfloat16|float16|\.half\(|torch\.half\b|autocast|bf16|fp16|tf32|float32_matmul_precision|float8",
    re.IGNORECASE,
)


def may_round(source: str) -> bool:
    """Tell whether a script may compute in fewer bits than it answers in, by what it names.

    Nothing is gained by pretending to it: answers in 16 bits are open to all and have the same
    bounds.
    """
    return bool(_COARSE_ARITHMETIC.search(source))


class WrongAnswer(ValueError):
    """The model answered, but not with finite logits of the right shape."""


class ChannelClosed(Exception):
    """The box ended, or did not answer in time."""


class TooSlow(Exception):
    """One answer took longer than any may."""


class Channel:
    """Asks the model in a box for logits.

    Args:
        control: File descriptor that requests are written to.
        reply: File descriptor that answers are read from.
        deadline: ``time.monotonic()`` after which no answer is waited for, in seconds.
        answer_seconds: How long the first answer may take, with loading the model, and half of it
            any other.
        vocab_size: V, the length of every row of logits.
        rounded: True where float32 answers may come from arithmetic of lower precision.
    """

    def __init__(
        self,
        control: int,
        reply: int,
        *,
        deadline: float,
        answer_seconds: float,
        vocab_size: int,
        rounded: bool,
    ) -> None:
        os.set_blocking(control, False)
        os.set_blocking(reply, False)
        self.vocab_size = vocab_size
        self.precision: Precision | None = None
        self._control = control
        self._reply = reply
        self._deadline = deadline
        self._answer_seconds = answer_seconds
        self._answer_due = time.monotonic() + answer_seconds
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

    def answers(
        self, requests: Iterable[NDArray[np.int32]], *, last_only: bool, ahead: bool = False
    ) -> Iterator[NDArray[np.float32]]:
        """Logits of batches, in order.

        Args:
            requests: (B, T) token ids each.
            last_only: Ask for the last position only.
            ahead: Send a request while the model still works on the one before, so that both sides
                are busy. Only where no request tells anything of the one before: the box has it.

        Yields:
            (B, T, V), or (B, V) if ``last_only``.

        Raises:
            ChannelClosed: No answer: the box ended, or the deadline passed.
            TooSlow: An answer took too long.
            WrongAnswer: An answer of another size or type, or of another type than before.
        """
        waiting: deque[tuple[int, int]] = deque()
        for tokens in requests:
            header = _REQUEST.pack(*tokens.shape, last_only)
            self._write(header + tokens.astype("<i4").tobytes())
            waiting.append((tokens.shape[0], tokens.shape[1]))
            if len(waiting) > ahead:
                yield self._answer(*waiting.popleft(), last_only)
        while waiting:
            yield self._answer(*waiting.popleft(), last_only)

    def _answer(self, rows: int, length: int, last_only: bool) -> NDArray[np.float32]:
        if self.precision is not None:  # the first answer's time began with the box's task
            self._answer_due = time.monotonic() + self._answer_seconds / 2
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
        left = min(self._deadline, self._answer_due) - time.monotonic()
        if not poll.poll(max(0.0, left) * 1000.0):
            if self._deadline <= self._answer_due:
                raise ChannelClosed("the box did not answer in time")
            raise TooSlow("the box did not answer in time")


def _as_float32(data: bytearray, kind: str) -> NDArray[np.float32]:
    if kind == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if kind == "float16" else "<f4").astype(
        np.float32, copy=False
    )


@dataclass(frozen=True)
class Answers:
    """What a box made of the N validation windows of T tokens.

    Attributes:
        nats: (N, T) loss of every target.
        batches: Indices of the windows of each batch, in the order that they were asked for.
        precision: The kind of logits that the losses come from.
    """

    nats: NDArray[np.float64]
    batches: list[NDArray[np.int64]]
    precision: Precision


def answer_windows(channel: Channel, windows: Windows, rng: np.random.Generator) -> Answers:
    """Loss of every target of the validation windows, asked for in random order.

    Args:
        channel: A fresh box.
        windows: N windows of T tokens.
        rng: Draws the order; must not be known to the box.

    Raises:
        ChannelClosed: The box ended, or was too slow.
        TooSlow: An answer took too long.
        WrongAnswer: Logits that are not finite, or not of the right shape.
    """
    count, length = windows.inputs.shape
    nats = np.empty((count, length))
    order = rng.permutation(count)
    most = max(1, count // _LEAST_BATCHES)
    batches = _batches(order, length, channel.vocab_size, most)
    requests = (windows.inputs[rows] for rows in batches)
    answers = channel.answers(requests, last_only=False, ahead=True)
    for rows, logits in zip(batches, answers, strict=True):
        nats[rows] = _nats(logits, windows.targets[rows])
    assert channel.precision is not None
    return Answers(nats, batches, channel.precision)


@dataclass(frozen=True)
class Leak:
    """What a model loses, at K probed positions, when it is not shown the tokens that follow.

    Attributes:
        mean: Importance-weighted mean of d, nats per token: the estimated profit of the leak.
        standard_error: Of that mean.
        largest: Largest \\|d\\|.
        spread: Importance-weighted root mean square of d.
        changed: Number of positions where \\|d\\| is more than rounding can explain.
        probed: K.
        batch_difference: Largest change of a loss when a prefix is asked for alone instead of
            among others, nats per token.
        repeat_difference: Largest change of a loss when the same windows, in the same batch, are
            put to a process that was asked for nothing before, nats per token.
        repeat_bound: What rounding can do to a repeated answer.
        position_bound: What rounding can do to d at a position, and to the loss by batching.
        spread_bound: What rounding can do to the root mean square.
        mean_bound: What rounding can do to the mean.
    """

    mean: float
    standard_error: float
    largest: float
    spread: float
    changed: int
    probed: int
    batch_difference: float
    repeat_difference: float
    repeat_bound: float
    position_bound: float
    spread_bound: float
    mean_bound: float

    @property
    def profit(self) -> float:
        """What the score is charged, nats per token: the upper end of what the leak may earn."""
        return max(0.0, self.mean + 2.0 * self.standard_error)

    @property
    def reason(self) -> str | None:
        """Why the score cannot be credited, in a sentence; :obj:`None` if it can."""
        if self.repeat_difference > self.repeat_bound:
            return (
                "the model's answer depends on what it was asked before: the loss of the same "
                f"texts changed by {self.repeat_difference:.4f} nats in a fresh process"
            )
        if self.batch_difference > self.position_bound:
            return (
                "the model's answer to one text depends on the other texts of its batch: its loss "
                f"changed by {self.batch_difference:.4f} nats when a text was asked for alone"
            )
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
        if self.spread > self.spread_bound:
            return (
                f"the model's answers do not depend on the tokens before alone: at {self.probed} "
                f"probed positions they changed by {self.spread:.4f} nats (root mean square) when "
                "another process was asked"
            )
        return None


def probe_leak(
    channel: Channel,
    windows: Windows,
    answers: Answers,
    probe: Probe,
    rng: np.random.Generator,
    *,
    again: Sequence[NDArray[np.int64]] = (),
    exact: bool = True,
) -> Leak:
    """Ask a fresh box about truncated prefixes, and compare with what the first one said.

    Args:
        channel: A box that has seen nothing of the validation text.
        windows: N windows of T tokens.
        answers: What the first box said, with the whole window in view.
        probe: K positions, drawn after the first box had ended.
        rng: Draws what is asked for twice; must not be known to the box.
        again: Batches of the first box, to be asked for first and just as they were: a model that
            learns from what it is asked differs. No position of theirs may be probed.
        exact: True where the same question in another process has the same answer, to the bit or
            nearly so.

    Raises:
        ChannelClosed: The box ended, or was too slow.
        TooSlow: An answer took too long.
        WrongAnswer: Logits that are not finite, not of the right shape, or of another type.
    """
    # Prefixes of equal length go together: no padding, which would be a suffix. Short ones come
    # first, so that this box never holds more of a window than it is asked about.
    batches = [
        rows
        for position in np.unique(probe.position)
        for rows in _batches(
            np.flatnonzero(probe.position == position), int(position) + 1, channel.vocab_size
        )
    ]
    several = [index for index, rows in enumerate(batches) if len(rows) > 1]
    checked = set(rng.permutation(several)[:_BATCH_CHECKS].tolist())
    asked: list[tuple[NDArray[np.int64], bool]] = []
    for index, rows in enumerate(batches):
        asked.append((rows, False))
        if index in checked:
            asked.append((rng.permutation(rows)[:1], True))  # once more, alone

    def prefixes(rows: NDArray[np.int64]) -> NDArray[np.int32]:
        return windows.inputs[probe.window[rows], : int(probe.position[rows[0]]) + 1]

    repeat_difference = 0.0
    whole = channel.answers((windows.inputs[rows] for rows in again), last_only=False)
    for rows, logits in zip(again, whole, strict=True):
        change = _nats(logits, windows.targets[rows]) - answers.nats[rows]
        repeat_difference = max(repeat_difference, float(np.abs(change).max()))

    difference = np.empty(len(probe.position))
    batch_difference = 0.0
    truncated = channel.answers((prefixes(rows) for rows, _ in asked), last_only=True)
    for (rows, alone), logits in zip(asked, truncated, strict=True):
        window, position = probe.window[rows], probe.position[rows]
        change = _nats(logits, windows.targets[window, position]) - answers.nats[window, position]
        if alone:
            batch_difference = max(batch_difference, abs(float((change - difference[rows])[0])))
        else:
            difference[rows] = change
    precision = answers.precision
    if channel.precision != precision:
        raise WrongAnswer("the model answered with logits of more than one type")
    return leak_of(
        difference,
        probe,
        precision,
        batch_difference=batch_difference,
        repeat_difference=repeat_difference,
        repeat_bound=_REPEAT_BOUND if exact else precision.position_bound,
    )


def leak_of(
    difference: NDArray[np.float64],
    probe: Probe,
    precision: Precision,
    *,
    batch_difference: float = 0.0,
    repeat_difference: float = 0.0,
    repeat_bound: float = _REPEAT_BOUND,
) -> Leak:
    """What differences at probed positions say of a leak.

    Args:
        difference: (K,) d, nats.
        probe: The K positions.
        precision: What rounding can do.
        batch_difference: As in :class:`Leak`.
        repeat_difference: As in :class:`Leak`.
        repeat_bound: As in :class:`Leak`.
    """
    mean = float(probe.weight @ difference)
    return Leak(
        mean=mean,
        standard_error=float(np.sqrt(probe.weight**2 @ (difference - mean) ** 2)),
        largest=float(np.abs(difference).max()),
        spread=float(np.sqrt(probe.weight @ difference**2)),
        changed=int((np.abs(difference) > precision.position_bound).sum()),
        probed=len(difference),
        batch_difference=batch_difference,
        repeat_difference=repeat_difference,
        repeat_bound=repeat_bound,
        position_bound=precision.position_bound,
        spread_bound=precision.spread_bound,
        mean_bound=precision.mean_bound,
    )


def credited_bits_per_byte(
    nats: NDArray[np.float64], target_bytes: NDArray[np.int32], leaked: float = 0.0
) -> float:
    """Bits per byte of the scored targets, with what the leak earned taken back.

    Args:
        nats: (N, T) losses.
        target_bytes: (N, T); targets of no bytes are not scored.
        leaked: What a leak may have earned, nats per token.
    """
    scored = target_bytes > 0
    total = float(nats[scored].sum()) + leaked * int(scored.sum())
    return bits_per_byte(total, int(target_bytes.sum()))


def _nats(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    try:
        return token_nats(logits, targets)
    except ValueError as e:
        raise WrongAnswer(str(e)) from None


def _batches(
    index: NDArray[np.int64], length: int, vocab_size: int, most: int | None = None
) -> list[NDArray[np.int64]]:
    size = max(1, min(_REPLY_BYTES // (4 * length * vocab_size), _REQUEST_BYTES // (4 * length)))
    size = size if most is None else min(size, most)
    return [index[i : i + size] for i in range(0, len(index), size)]
