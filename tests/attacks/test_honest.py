"""Models of many kinds that read no future: not one of them may be turned down."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
from pathlib import Path

import pytest

from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.objective.sandbox import SandboxUnavailable
from optuna_arrl.trajectory import Outcome


FOLDER = Path(__file__).with_name("honest")
KINDS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
# Attention, convolution, recurrence, and rounding to 16 bits.
QUICK = ("plain_attention", "dilated_convolution", "gru", "bfloat16_weights")
QUICK_EVAL_TOKENS = 12_288
BUDGET_SECONDS = 3.0
MOST_BPB = 3.0


def source_of(kind: str) -> str:
    source = (FOLDER / f"{kind}.py").read_text(encoding="utf-8")
    if "def train(" in source:
        return source
    return source + (FOLDER / "_loop.py").read_text(encoding="utf-8")


def runner_on_the_corpus(eval_tokens: int) -> TrialRunner:
    profile = dataclasses.replace(
        PROFILES["cpu"], budget_seconds=BUDGET_SECONDS, eval_tokens=eval_tokens
    )
    try:
        return TrialRunner(prepare(profile))
    except SandboxUnavailable as error:
        pytest.skip(f"no box on this machine: {error}")


@pytest.fixture(scope="module")
def quick_runner() -> Iterator[TrialRunner]:
    runner = runner_on_the_corpus(QUICK_EVAL_TOKENS)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[TrialRunner]:
    runner = runner_on_the_corpus(PROFILES["cpu"].eval_tokens)
    yield runner
    runner.close()


def assert_is_believed(runner: TrialRunner, kind: str, seed: int) -> None:
    # As the best of its study, which is probed most.
    measurement = runner.run(source_of(kind), seed=seed, best_so_far=math.inf)
    assert (measurement.outcome, measurement.reason) == (Outcome.COMPLETE, "")
    assert measurement.val_bpb is not None and measurement.val_bpb < MOST_BPB
    assert measurement.leak is not None and measurement.leak["changed"] == 0


@pytest.mark.parametrize("kind", QUICK)
def test_honest_model_is_believed(quick_runner: TrialRunner, kind: str) -> None:
    assert_is_believed(quick_runner, kind, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_honest_model_is_believed(runner: TrialRunner, kind: str, seed: int) -> None:
    assert_is_believed(runner, kind, seed)
