from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
import math
import os
import select
import struct
import threading
import time

import numpy as np
from numpy.typing import NDArray
import pytest

from optuna_arrl.frozen_env.evaluation import Probe
from optuna_arrl.frozen_env.evaluation import Windows
from optuna_arrl.objective.scorer import answer_windows
from optuna_arrl.objective.scorer import Answers
from optuna_arrl.objective.scorer import Channel
from optuna_arrl.objective.scorer import ChannelClosed
from optuna_arrl.objective.scorer import credited_bits_per_byte
from optuna_arrl.objective.scorer import Leak
from optuna_arrl.objective.scorer import may_round
from optuna_arrl.objective.scorer import Precision
from optuna_arrl.objective.scorer import probe_leak
from optuna_arrl.objective.scorer import TooSlow
from optuna_arrl.objective.scorer import WrongAnswer


V = 5
LN = math.log
# Logits of a token, whatever came before it. The next token's logit is 3, the others' are 0.
TABLE = 3.0 * np.roll(np.eye(V, dtype=np.float32), 1, axis=1)
LOG_SUM = LN(math.exp(3.0) + 4.0)

Model = Callable[[NDArray[np.int32]], NDArray[np.float32]]  # (B, T) -> (B, T, V)
Encode = Callable[[NDArray[np.float32]], bytes]


def as_float32(logits: NDArray[np.float32]) -> bytes:
    return struct.pack("<BQ", 0, 4 * logits.size) + logits.astype("<f4").tobytes()


def as_float16(logits: NDArray[np.float32]) -> bytes:
    return struct.pack("<BQ", 1, 2 * logits.size) + logits.astype("<f2").tobytes()


def as_bfloat16(logits: NDArray[np.float32]) -> bytes:
    upper_half = logits.astype("<f4").view("<u2").reshape(*logits.shape, 2)[..., 1]
    return struct.pack("<BQ", 2, 2 * logits.size) + upper_half.tobytes()


class FakeBox:
    """The launcher's side of the protocol, in a thread of this process."""

    def __init__(self, model: Model, encode: Encode = as_float32) -> None:
        self.requests: list[tuple[NDArray[np.int32], bool]] = []
        self._model = model
        self._encode = encode
        self.control, self._to_box = os.pipe()
        self._from_box, self._reply = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def channel(
        self, *, rounded: bool = False, seconds: float = 60.0, answer_seconds: float = 100.0
    ) -> Channel:
        return Channel(
            self._to_box,
            self._from_box,
            deadline=time.monotonic() + seconds,
            answer_seconds=answer_seconds,
            vocab_size=V,
            rounded=rounded,
        )

    def close(self) -> None:
        os.close(self._to_box)
        self._thread.join()
        os.close(self._from_box)

    def _serve(self) -> None:
        with (
            os.fdopen(self.control, "rb", buffering=0) as control,
            os.fdopen(self._reply, "wb") as reply,
        ):
            while header := control.read(9):
                rows, length, last_only = struct.unpack("<IIB", header)
                tokens = np.frombuffer(control.read(4 * rows * length), "<i4")
                tokens = tokens.reshape(rows, length)
                self.requests.append((tokens, bool(last_only)))
                logits = self._model(tokens)
                answer = self._encode(logits[:, -1] if last_only else logits)
                if not answer:
                    return
                reply.write(answer)
                reply.flush()


@pytest.fixture
def box() -> Iterator[Callable[..., FakeBox]]:
    boxes: list[FakeBox] = []

    def make(model: Model = lambda tokens: TABLE[tokens], encode: Encode = as_float32) -> FakeBox:
        boxes.append(FakeBox(model, encode))
        return boxes[-1]

    yield make
    for each in boxes:
        each.close()


def some_windows(count: int = 40, length: int = 6) -> Windows:
    tokens = np.random.default_rng(0).integers(0, V, size=count * length + 1, dtype=np.int32)
    inputs = tokens[:-1].reshape(count, length)
    targets = tokens[1:].reshape(count, length)
    return Windows(inputs, targets, np.ones_like(targets))


def nats_of_table(windows: Windows) -> NDArray[np.float64]:
    hit = windows.targets == (windows.inputs + 1) % V
    return np.where(hit, LOG_SUM - 3.0, LOG_SUM)


@pytest.mark.parametrize("encode", [as_float32, as_float16, as_bfloat16])
def test_losses_are_those_of_the_models_softmax(
    box: Callable[..., FakeBox], encode: Encode
) -> None:
    windows = some_windows()
    channel = box(encode=encode).channel()
    answers = answer_windows(channel, windows, np.random.default_rng(1))
    np.testing.assert_allclose(answers.nats, nats_of_table(windows), atol=1e-6)
    assert f"as_{answers.precision.name}" == encode.__name__


def test_windows_are_asked_for_once_each_and_in_random_order(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    fake = box()
    answer_windows(fake.channel(), windows, np.random.default_rng(1))
    asked = np.concatenate([tokens for tokens, _ in fake.requests])
    assert not (asked == windows.inputs).all()
    assert sorted(map(tuple, asked)) == sorted(map(tuple, windows.inputs))


def test_few_windows_are_asked_for_in_several_batches_all_the_same(
    box: Callable[..., FakeBox],
) -> None:
    windows, fake = some_windows(), box()
    answers = answer_windows(fake.channel(), windows, np.random.default_rng(1))
    assert len(fake.requests) == len(answers.batches) >= 8
    for (tokens, _), rows in zip(fake.requests, answers.batches, strict=True):
        np.testing.assert_array_equal(tokens, windows.inputs[rows])


@pytest.mark.parametrize("far", [3e38, -3e38])
def test_logits_too_far_apart_for_a_loss_are_refused(
    box: Callable[..., FakeBox], far: float
) -> None:
    shift = np.array([far, -far, 0.0, 0.0, 0.0], dtype=np.float32)
    channel = box(lambda tokens: TABLE[tokens] * 0 + shift).channel()
    with pytest.raises(WrongAnswer, match="too far apart"):
        answer_windows(channel, some_windows(), np.random.default_rng(1))


@pytest.mark.parametrize(
    ("model", "encode", "match"),
    [
        (lambda t: TABLE[t][..., :4], as_float32, "one row of VOCAB_SIZE = 5"),
        (lambda t: TABLE[t][:, 1:], as_float32, "one row of VOCAB_SIZE = 5"),
        (lambda t: TABLE[t] * np.float32("nan"), as_float32, "not finite"),
        (lambda t: TABLE[t] - np.float32("inf"), as_bfloat16, "not finite"),
        (lambda t: TABLE[t], lambda x: struct.pack("<BQ", 7, 4 * x.size), "unknown type"),
        (lambda t: TABLE[t], lambda x: struct.pack("<BQ", 0, 1 << 62), "4611686018427387904"),
    ],
)
def test_answers_that_are_not_finite_logits_of_the_right_shape_are_refused(
    box: Callable[..., FakeBox], model: Model, encode: Encode, match: str
) -> None:
    channel = box(model, encode).channel()
    with pytest.raises(WrongAnswer, match=match):
        answer_windows(channel, some_windows(), np.random.default_rng(1))


def test_one_box_answers_in_one_type(box: Callable[..., FakeBox]) -> None:
    encodings = iter([as_float32, as_bfloat16])
    channel = box(encode=lambda logits: next(encodings)(logits)).channel()
    tokens = np.zeros((1, 2), dtype=np.int32)
    with pytest.raises(WrongAnswer, match="more than one type"):
        list(channel.answers([tokens, tokens], last_only=True))


def test_box_that_ends_is_noticed(box: Callable[..., FakeBox]) -> None:
    channel = box(encode=lambda logits: b"").channel()
    with pytest.raises(ChannelClosed):
        answer_windows(channel, some_windows(), np.random.default_rng(1))


def test_box_that_answers_half_is_not_waited_for_beyond_the_deadline(
    box: Callable[..., FakeBox],
) -> None:
    channel = box(encode=lambda logits: as_float32(logits)[:-1]).channel(seconds=0.2)
    with pytest.raises(ChannelClosed, match="in time"):
        list(channel.answers([np.zeros((2, 3), dtype=np.int32)], last_only=False))


def test_model_that_takes_long_before_its_first_answer_is_too_slow(
    box: Callable[..., FakeBox],
) -> None:
    ask = threading.Event()

    def model(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        ask.wait()
        return TABLE[tokens]

    fake = box(model)
    with pytest.raises(TooSlow):
        answer_windows(fake.channel(answer_seconds=0.2), some_windows(), np.random.default_rng(1))
    ask.set()


def test_next_request_is_sent_before_the_answer_is_taken(box: Callable[..., FakeBox]) -> None:
    fake = box()
    tokens = [np.full((1, 2), n, dtype=np.int32) for n in range(3)]
    answers = fake.channel().answers(tokens, last_only=True, ahead=True)
    for n, logits in enumerate(answers):
        np.testing.assert_allclose(logits, TABLE[[n]])
    assert [int(asked[0, 0]) for asked, _ in fake.requests] == [0, 1, 2]


def test_probe_sends_no_prefix_before_the_one_before_is_answered(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    asked = 0

    def model(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        nonlocal asked
        asked += 1
        # A request that had been sent ahead would be in the pipe by now.
        poll = select.poll()
        poll.register(fake.control, select.POLLIN)
        assert not poll.poll(0)
        return TABLE[tokens]

    fake = box(model)
    probe = probe_at([0, 1, 2], [1, 3, 5], [0.5, 0.25, 0.25])
    leak = probed(fake.channel(), windows, nats_of_table(windows), probe, FLOAT32)
    assert (leak.reason, asked) == (None, 3)


@pytest.mark.parametrize(
    "said", [b"val_bpb: 0.1\n", b'{"loaded": false}\n', b"[" * 4000 + b"\n", b"x" * 5000]
)
def test_what_edited_code_writes_before_it_is_asked_is_refused(said: bytes) -> None:
    control, reply = os.pipe(), os.pipe()
    os.write(reply[1], said)
    deadline = time.monotonic() + 60.0
    channel = Channel(
        control[1],
        reply[0],
        deadline=deadline,
        answer_seconds=60.0,
        vocab_size=V,
        rounded=False,
    )
    with pytest.raises(WrongAnswer, match="before it was asked"):
        channel.wait_until_loaded()
    for fd in (*control, *reply):
        os.close(fd)


def probe_at(windows: list[int], positions: list[int], weights: list[float]) -> Probe:
    return Probe(np.array(windows), np.array(positions), np.array(weights))


FLOAT32 = Precision("float32", 4, position_bound=0.001, spread_bound=0.0005, mean_bound=0.0003)
FLOAT16 = Precision("float16", 2, position_bound=0.25, spread_bound=0.02, mean_bound=0.003)
BFLOAT16 = Precision("bfloat16", 2, position_bound=0.25, spread_bound=0.02, mean_bound=0.003)


def probed(
    channel: Channel,
    windows: Windows,
    nats: NDArray[np.float64],
    probe: Probe,
    precision: Precision,
) -> Leak:
    answers = Answers(nats, [], precision)
    return probe_leak(channel, windows, answers, probe, np.random.default_rng(2))


def test_probe_shows_prefixes_only(box: Callable[..., FakeBox]) -> None:
    windows = some_windows()
    fake = box()
    probe = probe_at([3, 4, 5, 9, 3], [0, 5, 2, 3, 1], [0.2] * 5)
    probed(fake.channel(), windows, nats_of_table(windows), probe, FLOAT32)
    asked = sorted(tuple(row) for tokens, _ in fake.requests for row in tokens)
    pairs = zip(probe.window, probe.position, strict=True)
    assert asked == sorted(tuple(windows.inputs[w, : p + 1]) for w, p in pairs)
    assert all(last_only for _, last_only in fake.requests)


def test_probe_never_holds_more_of_a_window_than_it_is_asked_about(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    fake = box()
    rng = np.random.default_rng(0)
    probe = probe_at(
        rng.integers(0, 40, 100).tolist(), rng.integers(0, 6, 100).tolist(), [0.01] * 100
    )
    probed(fake.channel(), windows, nats_of_table(windows), probe, FLOAT32)
    lengths = [tokens.shape[1] for tokens, _ in fake.requests]
    assert lengths == sorted(lengths)
    assert max(lengths) == 6


def loss_that_depends_on_the_batch(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    logits = TABLE[tokens].copy()
    logits[..., 0] += SHIFT * (len(tokens) == 1)
    return logits


SHIFT = 0.0


@pytest.mark.parametrize(
    ("shift", "reason"),
    [
        (1e-4, None),
        (0.1, "depends on the other texts of its batch"),
        (4.0, "depends on the other texts of its batch"),
    ],
)
def test_same_prefix_alone_and_among_others_has_one_answer(
    box: Callable[..., FakeBox],
    monkeypatch: pytest.MonkeyPatch,
    shift: float,
    reason: str | None,
) -> None:
    monkeypatch.setattr("test_scorer.SHIFT", shift)
    windows = some_windows()
    probe = probe_at([0, 1, 2, 3], [2, 2, 2, 2], [0.25] * 4)
    fake = box(loss_that_depends_on_the_batch)
    leak = probed(fake.channel(), windows, nats_of_table(windows), probe, FLOAT32)
    assert [len(tokens) for tokens, _ in fake.requests] == [4, 1]
    assert (leak.reason is None) if reason is None else (reason in str(leak.reason))


def test_honest_model_loses_nothing_without_the_future(box: Callable[..., FakeBox]) -> None:
    windows = some_windows()
    probe = probe_at([0, 1, 2], [1, 3, 5], [0.5, 0.25, 0.25])
    leak = probed(box().channel(), windows, nats_of_table(windows), probe, FLOAT32)
    assert leak.reason is None
    assert leak.mean == pytest.approx(0.0, abs=1e-6)
    assert (leak.changed, leak.probed) == (0, 3)


def test_leak_is_the_weighted_mean_of_what_the_future_was_worth(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    # With the future in view the first probed target was cheaper by 0.4 nats.
    nats = nats_of_table(windows)
    nats[0, 1] -= 0.4
    probe = probe_at([0, 1, 2], [1, 3, 5], [0.5, 0.25, 0.25])
    leak = probed(box().channel(), windows, nats, probe, FLOAT32)
    assert leak.mean == pytest.approx(0.5 * 0.4, abs=1e-6)
    # Σ w² (d - m)² = 0.5² 0.2² + 2 · 0.25² 0.2² = 0.015
    assert leak.standard_error == pytest.approx(math.sqrt(0.015), abs=1e-6)
    assert leak.largest == pytest.approx(0.4, abs=1e-6)
    assert leak.changed == 1
    assert leak.reason == (
        "the model reads the next token: at 1 of 3 probed positions its answer changed when the "
        "later tokens were taken away"
    )


def test_answer_that_gets_better_without_the_future_depends_on_it_too(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    nats = nats_of_table(windows)
    nats[0, 1] += 0.4
    leak = probed(box().channel(), windows, nats, probe_at([0], [1], [1.0]), FLOAT32)
    assert leak.changed == 1


@pytest.mark.parametrize(
    ("shift", "encode", "precision", "refused"),
    [
        (1e-5, as_float32, FLOAT32, False),  # what rounding does
        (0.0005, as_float32, FLOAT32, True),  # small everywhere, but it does not cancel
        (0.002, as_float32, FLOAT32, True),
        (0.002, as_bfloat16, BFLOAT16, False),
        (0.01, as_bfloat16, BFLOAT16, True),
    ],
)
def test_bounds_are_what_rounding_explains_in_the_type_of_the_logits(
    box: Callable[..., FakeBox],
    shift: float,
    encode: Encode,
    precision: Precision,
    refused: bool,
) -> None:
    windows = some_windows()
    nats = nats_of_table(windows) - shift
    probe = probe_at([0, 1, 2], [1, 3, 5], [0.5, 0.25, 0.25])
    leak = probed(box(encode=encode).channel(), windows, nats, probe, precision)
    assert (leak.reason is not None) is refused


def test_float32_from_a_gpu_is_bounded_like_the_arithmetic_behind_it(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    channel = box().channel(rounded=True)
    precision = answer_windows(channel, windows, np.random.default_rng(1)).precision
    nats = nats_of_table(windows) - 0.002
    probe = probe_at([0, 1, 2], [1, 3, 5], [0.5, 0.25, 0.25])
    leak = probed(box().channel(rounded=True), windows, nats, probe, precision)
    assert leak.reason is None


def test_second_box_cannot_change_the_type_to_widen_the_bounds(
    box: Callable[..., FakeBox],
) -> None:
    windows = some_windows()
    probe = probe_at([0], [1], [1.0])
    channel = box(encode=as_bfloat16).channel()
    with pytest.raises(WrongAnswer, match="more than one type"):
        probed(channel, windows, nats_of_table(windows), probe, FLOAT32)


@pytest.mark.parametrize(("encode", "precision"), [(as_float32, FLOAT32), (as_float16, FLOAT16)])
@pytest.mark.parametrize(("step", "refused"), [(0.0, False), (0.004, True)])
def test_model_that_learns_from_what_it_is_asked_is_found_out(
    box: Callable[..., FakeBox],
    encode: Encode,
    precision: Precision,
    step: float,
    refused: bool,
) -> None:
    windows = some_windows()

    def learner() -> FakeBox:
        asked = 0

        def model(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
            nonlocal asked
            asked += 1
            sharper = np.float32(1.0 + step * (asked - 1))
            return TABLE[tokens] * sharper

        return box(model, encode)

    answers = answer_windows(learner().channel(), windows, np.random.default_rng(1))
    assert answers.precision == precision
    probe, again = probe_at([0], [1], [1.0]), [answers.batches[5]]
    fake = learner()
    rng = np.random.default_rng(2)
    leak = probe_leak(fake.channel(), windows, answers, probe, rng, again=again)
    np.testing.assert_array_equal(fake.requests[0][0], windows.inputs[again[0]])
    # After five steps the loss of some target has moved by about 5 · 0.004 · 3.
    assert leak.repeat_difference == pytest.approx(0.0 if not step else 0.03, abs=0.03)
    assert ("depends on what it was asked before" in str(leak.reason)) is refused


SLIGHT = Leak(
    mean=0.001,
    standard_error=0.0002,
    largest=0.1,
    spread=0.01,
    changed=0,
    probed=512,
    batch_difference=0.0,
    repeat_difference=0.0,
    repeat_bound=0.001,
    position_bound=0.25,
    spread_bound=0.02,
    mean_bound=0.003,
)


def test_mean_alone_can_refuse_and_says_so() -> None:
    assert replace(SLIGHT, mean=0.02).reason == (
        "the model reads the next token: over 512 probed positions its loss rose by 0.0200 nats "
        "per token when the later tokens were taken away"
    )


def test_answers_that_spread_more_than_rounding_are_refused() -> None:
    # Each within the bound of a position, and up and down alike.
    reason = replace(SLIGHT, spread=0.05).reason
    assert reason is not None
    assert "they changed by 0.0500 nats (root mean square) when another process" in reason


def test_charge_is_the_upper_end_of_what_a_leak_may_earn() -> None:
    assert SLIGHT.profit == pytest.approx(0.001 + 2 * 0.0002)
    assert replace(SLIGHT, mean=-0.001).profit == 0.0


@pytest.mark.parametrize(
    ("source", "rounds"),
    [
        ("x = x.to(torch.bfloat16)", True),
        ("with torch.autocast('cpu'):", True),
        ("model.half()", True),
        ("x = x.to(torch.half)", True),
        ("torch.set_float32_matmul_precision('high')", True),
        ("half = dim // 2  # of the other half", False),
        ("x = x.float()", False),
    ],
)
def test_script_that_names_coarse_arithmetic_has_its_bounds(source: str, rounds: bool) -> None:
    assert may_round(source) is rounds


def test_score_is_bits_per_byte_of_the_targets_that_have_bytes() -> None:
    nats = np.array([[LN(2), LN(4)], [LN(8), LN(1024)]])
    target_bytes = np.array([[1, 2], [3, 0]], dtype=np.int32)  # the last is a separator
    assert credited_bits_per_byte(nats, target_bytes, 0.0) == pytest.approx((1 + 2 + 3) / 6)


def test_what_a_leak_earned_is_taken_back() -> None:
    nats = np.array([[LN(2), LN(4)]])
    target_bytes = np.array([[1, 2]], dtype=np.int32)
    # One bit per token is taken back: (1 + 2 + 2 · 1) / 3.
    assert credited_bits_per_byte(nats, target_bytes, LN(2)) == pytest.approx(5 / 3)
