from __future__ import annotations

import dataclasses
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler
import pytest

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective import objective as objective_module
from optuna_arrl.objective import records
from optuna_arrl.objective.objective import TrainScriptObjective
from optuna_arrl.trajectory import CURVE_KEY
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import MEASUREMENT_KEY
from optuna_arrl.trajectory import MEMORY_KEY
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REASON_KEY
from optuna_arrl.trajectory import SECONDS_KEY
from optuna_arrl.trajectory import TRAIN_SECONDS_KEY


TARGET = """\
import torch
from torch import nn
from torch.nn import functional as F

from frozen_env import batches
from frozen_env import report
from frozen_env import VOCAB_SIZE

LEARNING_RATE = 0.03  # arrl: log 1e-3 1e3


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB_SIZE, 16), nn.Linear(16, VOCAB_SIZE))


def train(model):
    assert LEARNING_RATE < 100, "too fast"
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step, (inputs, targets) in zip(range(60), batches(8)):
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step, loss.item())
"""


def test_a_study_of_real_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_prepared: Prepared
) -> None:
    monkeypatch.setitem(PROFILES, "cpu", tiny_prepared.profile)
    monkeypatch.setattr(
        objective_module,
        "prepare",
        lambda profile, *, corpus: dataclasses.replace(tiny_prepared, profile=profile),
    )
    target = tmp_path / "target.py"
    target.write_text(TARGET)
    objective = TrainScriptObjective(target, profile="cpu")
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, study_name="s", sampler=RandomSampler(seed=0))
    objective.enqueue_baseline(study)
    study.enqueue_trial({"LEARNING_RATE": 200.0})
    study.enqueue_trial({"LEARNING_RATE": 0.03})
    study.optimize(objective, n_trials=3)

    study = optuna.load_study(storage=url, study_name="s")
    baseline, crash, again = study.trials
    assert [t.user_attrs[OUTCOME_KEY] for t in study.trials] == ["complete", "crash", "complete"]
    assert baseline.value is not None and 0.5 < baseline.value < 8.0
    assert crash.value == FAILURE_BPB
    assert again.value == baseline.value
    assert crash.user_attrs[REASON_KEY] == "AssertionError: too fast"
    assert records.load_source(study, again) == TARGET
    assert "AssertionError: too fast" in records.artifact_text(study, crash, records.LOG_NAME)
    assert "+LEARNING_RATE = 200.0" in records.artifact_text(study, crash, records.DIFF_NAME)
    seconds = baseline.system_attrs[MEASUREMENT_KEY]["seconds"]
    assert seconds.keys() >= {"start", "train", "score_start", "score", "probe_start", "probe"}
    assert baseline.user_attrs[TRAIN_SECONDS_KEY] <= baseline.user_attrs[SECONDS_KEY]
    assert baseline.user_attrs[MEMORY_KEY] > 10
    assert isinstance(baseline.system_attrs[CURVE_KEY], list)
