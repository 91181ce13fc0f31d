"""Two studies side by side: one of honest edits, one in which some edits cheat."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import os
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
import pytest
from tiny import HONEST

from optuna_arrl import best
from optuna_arrl import TrainScriptObjective
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective import objective as objective_module
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective.scorer import Leak
from optuna_arrl.objective.supply import BoxSupply
from optuna_arrl.objective.supply import Mode
from optuna_arrl.objective.supply import StartedBox
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import ISOLATED_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REASON_KEY


# The honest script with one more slot; each of its values but 0 is a way to cheat, or to harm.
ENDINGS = {
    "none": (Outcome.COMPLETE, ""),
    "next token": (Outcome.REJECTED, "the model reads the next token: at "),
    "mean of the window": (Outcome.REJECTED, "the model reads the next token: at "),
    "hang": (Outcome.TIMEOUT, "when it was scored, its model did not answer within "),
    "no number": (Outcome.CRASH, "the model answered with logits that are not finite"),
    "processes without end": (Outcome.CRASH, "it started more than 128 processes"),
    "full disk": (Outcome.CRASH, "it wrote more than 64 MiB of files"),
    "log without end": (Outcome.CRASH, "it printed more than 64 MiB"),
}
CHEATS = list(ENDINGS)
FORWARD = """
        x = self.embedding(ids)
        if CHEAT == 1:
            x = x + self.embedding(ids.roll(-1, 1))
        if CHEAT == 2:
            x = x + x.mean(1, keepdim=True)
        if CHEAT == 3 and not self.training:
            while True:
                pass
        logits = self.head(x + self.context(x))
        if CHEAT == 4 and not self.training:
            logits = logits + float("nan")
        if CHEAT > 4:
            for number in range(200):
                if CHEAT == 5:
                    subprocess.Popen(["sleep", "1000"])
                elif CHEAT == 6 and number < 64:
                    open(str(number), "wb").write(bytes(2 << 20))
                elif CHEAT == 7 and number < 80:
                    os.write(1, bytes(1 << 20))
            signal.pause()
        return logits
"""
TARGET = (
    "import os, signal, subprocess\n"
    "LEARNING_RATE = 0.03  # arrl: log 1e-3 1\nCHEAT = 0  # arrl: choices 0 1 2 3 4 5 6 7\n"
    + HONEST.replace(
        """
        x = self.embedding(ids)
        return self.head(x + self.context(x))
""",
        FORWARD,
    ).replace("lr=0.03", "lr=LEARNING_RATE")
)
HONEST_EDITS = [{"LEARNING_RATE": rate, "CHEAT": 0} for rate in (0.03, 0.1)]
CHEATING_EDITS = [{"LEARNING_RATE": 0.03, "CHEAT": cheat} for cheat in range(1, len(CHEATS))]


@pytest.fixture
def run_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Prepared
) -> Callable[[str, list[dict[str, Any]]], optuna.Study]:
    profile = dataclasses.replace(
        prepared.profile, budget_seconds=10.0, score_seconds=10.0, disk_bytes=64 << 20
    )
    monkeypatch.setitem(PROFILES, "cpu", profile)
    monkeypatch.setattr(
        objective_module,
        "prepare",
        lambda profile, *, corpus: dataclasses.replace(prepared, profile=profile),
    )
    target = tmp_path / "train.py"
    target.write_text(TARGET)

    def run(name: str, edits: list[dict[str, Any]]) -> optuna.Study:
        study = optuna.create_study(
            storage=f"sqlite:///{tmp_path}/{name}.db",
            sampler=RandomSampler(seed=0),
            pruner=optuna.pruners.NopPruner(),
        )
        for edit in edits:
            study.enqueue_trial(edit)
        study.optimize(TrainScriptObjective(target, profile="cpu"), n_trials=len(edits))
        return study

    return run


def believe(*_: object, **__: object) -> Leak:
    """The verdict of a scorer that does not probe."""
    return Leak(
        mean=0.0,
        standard_error=0.0,
        largest=0.0,
        spread=0.0,
        changed=0,
        probed=0,
        batch_difference=0.0,
        repeat_difference=0.0,
        repeat_bound=1.0,
        position_bound=1.0,
        spread_bound=1.0,
        mean_bound=1.0,
    )


def check_that_no_cheat_pays(attacked: optuna.Study) -> None:
    """Each is contained with the reason for it, and the trials after it go on."""
    assert {CHEATS[trial.params["CHEAT"]] for trial in attacked.trials} == set(CHEATS)
    for trial in attacked.trials:
        assert trial.user_attrs[ISOLATED_KEY] is True
        outcome, reason = ENDINGS[CHEATS[trial.params["CHEAT"]]]
        assert trial.user_attrs[OUTCOME_KEY] == outcome.value, trial.user_attrs
        if trial.params["CHEAT"]:
            assert trial.value == FAILURE_BPB
            assert trial.user_attrs[REASON_KEY].startswith(reason)
    assert best(attacked).params["CHEAT"] == 0


@pytest.mark.slow
def test_without_the_probe_a_cheat_is_the_best(
    run_study: Callable[..., optuna.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "probe_leak", believe)
    study = run_study("believing", [*HONEST_EDITS, *CHEATING_EDITS[:2]])
    assert best(study).params["CHEAT"] in (1, 2)


@pytest.mark.slow
def test_attacked_study_ends_with_the_honest_best(
    run_study: Callable[..., optuna.Study], record: Any
) -> None:
    edits = {"honest": HONEST_EDITS, "attacked": [*CHEATING_EDITS, *HONEST_EDITS]}
    with ThreadPoolExecutor(2) as pool:
        honest, attacked = pool.map(run_study, edits.keys(), edits.values())
    assert best(attacked).params == best(honest).params
    assert best(attacked).value == pytest.approx(best(honest).value, abs=0.05)
    check_that_no_cheat_pays(attacked)
    record(
        "whole study",
        tries="win a study beside an honest one",
        undefended="the best trial is a cheat",
        defended="best trial and score are those of the honest study",
    )


@pytest.mark.slow
@pytest.mark.started_ahead
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing starts ahead")
def test_boxes_that_wait_meanwhile_change_nothing(
    run_study: Callable[..., optuna.Study], record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    take_spare = BoxSupply._take_spare

    def take_and_tell(supply: BoxSupply, mode: Mode) -> StartedBox | None:
        spare = take_spare(supply, mode)
        taken.append(spare is not None)
        return spare

    monkeypatch.setattr(BoxSupply, "_take_spare", take_and_tell)
    # The honest trials come last: in boxes that have waited while others cheated.
    check_that_no_cheat_pays(run_study("attacked", [*CHEATING_EDITS, *HONEST_EDITS]))
    assert taken == [False] + [True] * (len(taken) - 1)  # only the very first was not there
    record(
        "whole study (boxes started ahead)",
        tries="win a study whose boxes wait for their trials beside those that cheat",
        undefended="the best trial is a cheat, where none wait",
        defended="the best trial is an honest one",
    )
