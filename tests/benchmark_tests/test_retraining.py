"""Retraining: what is hidden has no influence, and a run can be gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.retraining import _begin
from benchmarks.retraining import retrain
from benchmarks.retraining import retrained
from benchmarks.retraining import VARIANTS
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import SLOT_FEATURES
from optuna_arrl.sampler.policy import TRIAL_FEATURES
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.surfaces import SurfaceTasks
from optuna_arrl.sampler.pretraining.training import Recipe
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


TINY = Recipe(
    imitation_iterations=1, ppo_iterations=2, tasks=4, repeats=2, candidates=8, horizons=(5,)
)


@pytest.fixture(scope="module")
def state() -> PolicyInput:
    """Return four states after seven trials."""
    states: list[PolicyInput] = []

    def choose(history: History, offered: Candidates, surrogate: Surrogate) -> torch.Tensor:
        states.append(policy_input(history, offered, surrogate))
        return states[-1].mask.float().argmax(1)

    play(SurfaceTasks.draw(4, 3), 8, 3, choose, candidates=12)
    return states[-1]


def _changed(state: PolicyInput, part: str) -> PolicyInput:
    if part == "names":
        slots = state.slots.clone()
        families = [i for i, n in enumerate(SLOT_FEATURES) if n.startswith("family_")]
        slots[..., families] = slots[..., families].roll(1, -1)
        return replace(state, slots=slots)
    if part == "trials":
        return replace(state, trials=state.trials + 1.0)
    trials = state.trials.clone()
    trials[..., TRIAL_FEATURES.index("log_incumbent")] += 1.0
    distances = state.distances * 2.0
    return replace(state, forecast=state.forecast - 0.5, distances=distances, trials=trials)


@pytest.mark.parametrize("part", ["names", "trials", "process"])
def test_what_is_left_out_has_no_influence(state: PolicyInput, part: str) -> None:
    for name, blind in (("whole", False), (part, True)):
        network = _begin(VARIANTS[name])
        with torch.no_grad():
            for head in (network.residual, network.slot_effects):
                head.weight.fill_(0.3)
            before, after = (network(s).logits for s in (state, _changed(state, part)))
        assert torch.equal(before, after) == blind


def test_without_processes_the_acquisition_has_no_say(state: PolicyInput) -> None:
    network = _begin(VARIANTS["process"])
    with torch.no_grad():
        logits = network(state).logits
    assert (logits[state.mask & ~state.floor_only] == 0.0).all()


def test_a_variant_is_trained_goes_on_and_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retrain("names", tmp_path, TINY)
    label, (digest, network) = next(iter(retrained(tmp_path).items()))
    assert label == "scores without names"
    assert not torch.equal(network.residual.weight, torch.zeros_like(network.residual.weight))
    capsys.readouterr()
    retrain("names", tmp_path, TINY)  # it is at its end
    assert capsys.readouterr().out == ""
    assert retrained(tmp_path)[label][0] == digest
