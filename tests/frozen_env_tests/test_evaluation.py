from __future__ import annotations

import math
import os
import struct

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from optuna_arrl.frozen_env import clock as clock_module
from optuna_arrl.frozen_env.clock import BudgetClock
from optuna_arrl.frozen_env.evaluation import bits_per_byte
from optuna_arrl.frozen_env.evaluation import draw_probe
from optuna_arrl.frozen_env.evaluation import token_nats


def test_uniform_logits_cost_the_log_of_the_vocabulary() -> None:
    nats = token_nats(np.full((2, 3, 8), 5.0), np.zeros((2, 3), dtype=np.int32))
    assert nats == pytest.approx(np.full((2, 3), math.log(8)))


def test_a_guess_over_bytes_is_eight_bits() -> None:
    nats = token_nats(np.zeros((10, 256)), np.arange(10))
    assert bits_per_byte(float(nats.sum()), 10) == pytest.approx(8.0)


def test_the_loss_is_that_of_the_target() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]]))
    for target, probability in enumerate((0.7, 0.2, 0.1)):
        assert token_nats(logits, np.array([target]))[0] == pytest.approx(-math.log(probability))


@given(st.floats(-1e4, 1e4), st.integers(0, 4))
def test_a_shift_of_all_logits_earns_nothing(shift: float, target: int) -> None:
    logits = np.array([[0.5, -1.0, 2.0, 0.0, 3.5]])
    plain = token_nats(logits, np.array([target]))
    assert token_nats(logits + shift, np.array([target])) == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        token_nats(np.array([[0.0, bad]]), np.array([0]))


def test_large_float32_logits_do_not_overflow() -> None:
    nats = token_nats(np.array([[1e4, 0.0]], dtype=np.float32), np.array([1]))
    assert nats[0] == pytest.approx(1e4)


def test_probe_is_drawn_where_the_model_did_well_and_never_where_nothing_is_scored() -> None:
    # p(target) + .02: 1.02 for what is known, .02 for what is not; the third is no target.
    nats = np.array([[0.0, 50.0, math.nan]])
    probe = draw_probe(nats, 20_000, np.random.default_rng(0))
    assert set(probe.window) == {0}
    counts = np.bincount(probe.position, minlength=3) / 20_000
    # Of two scored targets: half evenly, half by p + 0.02.
    assert counts[0] == pytest.approx(0.5 / 2 + 0.5 * 1.02 / 1.04, abs=0.01)
    assert counts[2] == 0


def test_probe_weights_undo_the_bias() -> None:
    rng = np.random.default_rng(0)
    nats = rng.exponential(2.0, size=(20, 50))
    worth = rng.normal(size=nats.shape)
    probe = draw_probe(nats, 200_000, rng)
    assert probe.weight.sum() == pytest.approx(1.0)
    estimate = (probe.weight * worth[probe.window, probe.position]).sum()
    assert estimate == pytest.approx(worth.mean(), abs=0.02)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: seconds[0])
    return seconds


def test_budget_ends_a_margin_before_the_deadline(now: list[float]) -> None:
    clock = BudgetClock(100.0, 200.0, 0.03, max_tokens=math.inf)
    assert clock.used() == 0.0
    now[0] = 148.5
    assert clock.used() == pytest.approx(0.5)
    now[0] = 197.0
    assert clock.used() == pytest.approx(1.0)


def test_budget_follows_a_deadline_that_moves(now: list[float]) -> None:
    told, tell = os.pipe()
    os.set_blocking(told, False)
    clock = BudgetClock(100.0, 200.0, 0.03, max_tokens=math.inf, pace_fd=told)
    now[0] = 148.5
    assert clock.used() == pytest.approx(0.5)  # nothing was told yet
    for deadline in (180.0, 197.0, 151.5):  # the last one counts; 3 s of it are for saving
        os.write(tell, struct.pack("<d", deadline))
    assert clock.used() == pytest.approx(1.0)
    os.write(tell, struct.pack("<d", 300.0))
    assert clock.used() == pytest.approx(48.5 / 197.0)
    os.close(tell)
    assert clock.used() == pytest.approx(48.5 / 197.0)
    os.close(told)


def test_short_budgets_keep_time_to_save(now: list[float]) -> None:
    clock = BudgetClock(100.0, 103.0, 0.03, max_tokens=math.inf)
    now[0] = 102.7
    assert clock.used() == pytest.approx(1.0)


def test_budget_ends_with_the_tokens_too(now: list[float]) -> None:
    clock = BudgetClock(100.0, 200.0, 0.03, max_tokens=1000)
    clock.serve(250)
    assert clock.used() == pytest.approx(0.25)
    clock.serve(750)
    assert clock.used() == pytest.approx(1.0)
