"""When the policy learns, from which trials, and what becomes of it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
import sqlite3

import optuna
from optuna.trial import TrialState
import pytest
from safetensors.torch import save
import torch

from optuna_arrl.policy_store import MemoryPolicyStore
from optuna_arrl.policy_store import open_policy_store
from optuna_arrl.policy_store import PolicyStore
from optuna_arrl.policy_store import study_key
from optuna_arrl.sampler import ARRLSampler
from optuna_arrl.sampler import learner
from optuna_arrl.sampler.learner import Learner
from optuna_arrl.sampler.learner import shipped_policy
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.trajectory import ACTION_KEY


def bowl(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -5, 5) ** 2 + trial.suggest_float("y", -5, 5) ** 2


def no_noise() -> float:
    return 0.0


def store_of(study: optuna.Study) -> PolicyStore:
    key = study_key(study)
    assert key is not None
    return open_policy_store(study, key)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study on SQLite that learns from every four trials."""
    return optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", sampler=ARRLSampler(seed=0, batch_size=4)
    )


def learner_in_memory(batch_size: int = 4) -> Learner:
    return Learner(MemoryPolicyStore(), shipped_policy(None), batch_size)


def test_a_batch_of_trials_makes_a_version_with_other_weights(study: optuna.Study) -> None:
    study.optimize(bowl, n_trials=4)
    store = store_of(study)
    assert store.newest() == 0
    study.optimize(bowl, n_trials=1)
    first, second = store.load(0), store.load(1)
    assert second.parent == 0
    assert second.consumed == (0, 1, 2, 3)
    assert second.sha256 != first.sha256
    assert second.optimiser is not None
    assert second.statistics["used"] == 3
    assert second.statistics["left_out"] == {"no_action": 1}
    for figure in ("approx_kl", "reference_kl", "entropy", "clip_fraction", "mean_reward"):
        assert isinstance(second.statistics[figure], float)
    assert study.trials[4].user_attrs["arrl:policy_version"] == 1


def test_optimiser_state_goes_on_bit_for_bit(study: optuna.Study) -> None:
    study.optimize(bowl, n_trials=9)
    stored = store_of(study).load(2).optimiser
    assert stored is not None
    network = PolicyNetwork()
    optimizer = torch.optim.Adam(network.parameters())
    learner._load_optimiser(optimizer, stored)
    assert learner._optimiser_bytes(optimizer) == stored
    steps = {float(state["step"]) for state in optimizer.state_dict()["state"].values()}
    (count,) = steps
    assert count > 4  # of both updates, not of the last alone


def test_trials_that_the_policy_did_not_choose_are_consumed_and_counted(
    study: optuna.Study,
) -> None:
    sampler = study.sampler
    study.enqueue_trial({"x": 1.0, "y": 1.0})
    study.optimize(bowl, n_trials=3)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(bowl, n_trials=2)
    study.sampler = sampler
    study.enqueue_trial({"x": 0.5})
    study.optimize(bowl, n_trials=4)
    assert [record.consumed for record in store_of(study).records()] == [(), (0, 1, 2, 3, 4)]
    statistics = store_of(study).records()[1].statistics
    assert statistics["used"] == 2
    assert statistics["left_out"] == {"enqueued": 1, "no_action": 2}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("candidates", "0" * 16, "other_candidates"),
        ("space", "0" * 16, "other_space"),
        ("generator", 0, "other_generator"),
        ("index", 0, "overridden"),
    ],
)
def test_actions_that_cannot_be_drawn_again_are_left_out(
    field: str, value: object, reason: str
) -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))
    study.optimize(bowl, n_trials=4)
    trials = study.get_trials()
    assert trials[2].system_attrs[ACTION_KEY][field] != value
    trials[2].system_attrs[ACTION_KEY][field] = value
    own = learner_in_memory()
    own.advance(trials, study.direction, no_noise)
    (_, record) = own.store.records()
    assert record.statistics["used"] == 2
    assert record.statistics["left_out"] == {"no_action": 1, reason: 1}


def test_a_failed_update_keeps_the_weights_and_is_not_tried_again(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def diverge(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        raise FloatingPointError("loss nan")

    monkeypatch.setattr(learner, "ppo_update", diverge)
    study.optimize(bowl, n_trials=7)
    store = store_of(study)
    assert calls == 1
    assert store.load(1).sha256 == store.load(0).sha256
    assert "loss nan" in store.load(1).statistics["failed"]


def test_on_sql_a_version_takes_what_has_ended(study: optuna.Study) -> None:
    running = study.ask()
    bowl(running)
    study.optimize(bowl, n_trials=5)
    assert store_of(study).load(1).consumed == (1, 2, 3, 4)
    study.tell(running, 1.0)
    study.optimize(bowl, n_trials=3)
    assert store_of(study).load(2).consumed == (0, 5, 6, 7)


def test_an_update_looks_at_the_latest_64_trials(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = optuna.create_study(sampler=ARRLSampler(seed=0, policy="acquisition"))
    other.optimize(bowl, n_trials=70)
    for trial in other.trials:
        study.add_trial(trial)
    study.sampler.learn(study)  # type: ignore[attr-defined]
    made = store_of(study).load(1)
    assert made.consumed == tuple(range(70))
    assert made.statistics["left_out"]["too_old"] == 6
    assert made.statistics["used"] == 64


def test_elsewhere_another_batch_size_goes_on_behind_the_last_block() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))
    study.optimize(bowl, n_trials=8)
    own = learner_in_memory(batch_size=4)
    own.advance(study.trials, study.direction, no_noise)
    study.optimize(bowl, n_trials=2)
    resumed = Learner(own.store, shipped_policy(None), batch_size=2)
    resumed.advance(study.trials, study.direction, no_noise)
    consumed = [record.consumed for record in own.store.records()]
    assert consumed == [(), (0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


def test_elsewhere_a_block_waits_for_its_trials_but_not_for_ever() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))
    bowl(study.ask())
    study.optimize(bowl, n_trials=10)
    own = learner_in_memory()
    own.advance(study.trials, study.direction, no_noise)
    assert own.policy.version == 0  # of the first block trial 0 still runs
    study.optimize(bowl, n_trials=1)  # eight trials after the first block have ended
    own.advance(study.trials, study.direction, no_noise)
    assert [record.consumed for record in own.store.records()] == [
        (),
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        (8, 9, 10, 11),
    ]
    assert own.store.records()[1].statistics["left_out"]["no_evidence"] == 1


def test_learn_takes_the_rest_on_sql_only(study: optuna.Study) -> None:
    sampler = study.sampler
    assert isinstance(sampler, ARRLSampler)
    study.optimize(bowl, n_trials=7)
    sampler.learn(study)
    assert store_of(study).load(2).consumed == (4, 5, 6)
    sampler.learn(study)
    assert store_of(study).newest() == 2
    # Of a single trial nothing can be learned yet: it waits for another.
    for newest in (2, 3):
        study.optimize(bowl, n_trials=1)
        sampler.learn(study)
        assert store_of(study).newest() == newest
    assert store_of(study).load(3).consumed == (7, 8)

    memory = optuna.create_study(sampler=sampler)
    memory.optimize(bowl, n_trials=3)
    sampler.learn(memory)
    memory.optimize(bowl, n_trials=1)
    assert memory.trials[3].user_attrs["arrl:policy_version"] == 0


def test_a_policy_in_memory_is_learned_anew_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4))
    study.optimize(bowl, n_trials=9)
    old = next(iter(study.sampler._learners.values()))  # type: ignore[attr-defined]
    optuna.logging.enable_propagation()
    anew = learner_in_memory()
    for _ in range(2):
        anew.advance(study.trials, study.direction, no_noise)
    optuna.logging.disable_propagation()
    assert anew.policy.version == old.policy.version == 2
    assert anew.policy.sha256 == old.policy.sha256
    assert ["learned anew" in record.message for record in caplog.records] == [True]


def test_the_loser_of_a_race_goes_on_with_the_winners_version(study: optuna.Study) -> None:
    study.optimize(bowl, n_trials=4)
    first = Learner(store_of(study), shipped_policy(None), 4)
    second = Learner(store_of(study), shipped_policy(None), 2)
    first.refresh()
    second.refresh()
    trials = study.get_trials()
    first.advance(trials, study.direction, no_noise)
    second._make_version(trials[:2], dict(enumerate(trials[:2])), [0, 1], study.direction, 0.0)
    assert second.policy.version == 1
    assert second.policy.sha256 == first.policy.sha256
    assert [record.consumed for record in store_of(study).records()] == [(), (0, 1, 2, 3)]


def test_a_storage_that_fails_while_a_version_is_read_makes_nothing_learned_twice(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.optimize(bowl, n_trials=4)
    other = Learner(store_of(study), shipped_policy(None), 4)
    other.refresh()
    study.optimize(bowl, n_trials=1)  # makes version 1 of the four
    with monkeypatch.context() as patch:

        def locked() -> None:
            raise sqlite3.OperationalError("database is locked")

        patch.setattr(other.store, "records", locked)
        with pytest.raises(sqlite3.OperationalError):
            other.refresh()
    other.advance(study.get_trials(), study.direction, no_noise)
    assert other.policy.version == 1
    assert [record.consumed for record in store_of(study).records()] == [(), (0, 1, 2, 3)]


def test_pruned_and_failed_trials_are_learned_from(study: optuna.Study) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        if trial.number == 2:
            raise optuna.TrialPruned
        return float("nan") if trial.number == 3 else value

    study.optimize(objective, n_trials=5)
    assert study.trials[3].state == TrialState.FAIL
    assert store_of(study).load(1).statistics["used"] == 3


def test_shipped_policy_is_always_the_same_and_leaves_the_random_state() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = shipped_policy(None)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert shipped_policy(None).weights == first.weights


def test_a_study_goes_on_with_the_policy_file_that_it_began_with(
    study: optuna.Study, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    network = PolicyNetwork()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    path = tmp_path / "policy.safetensors"
    path.write_bytes(save(network.state_dict()))
    study.sampler = ARRLSampler(seed=0, batch_size=4, policy=path)
    study.optimize(bowl, n_trials=2)
    given = store_of(study).load(0)
    assert given.weights == path.read_bytes()
    path.unlink()
    resumed = Learner(store_of(study), shipped_policy(None), 4)
    resumed.refresh()
    assert resumed.policy.sha256 == given.sha256 != shipped_policy(None).sha256


def test_with_the_acquisition_alone_nothing_is_learned_and_nothing_stored(
    study: optuna.Study,
) -> None:
    study.sampler = ARRLSampler(seed=0, batch_size=4, policy="acquisition")
    study.optimize(bowl, n_trials=9)
    assert store_of(study).records() == []
    assert {t.user_attrs["arrl:policy_version"] for t in study.trials[1:]} == {0}
    (own,) = study.sampler._learners.values()
    unlearned = PolicyNetwork().state_dict()
    found = own.policy.network.state_dict()
    assert all(torch.equal(found[name], unlearned[name]) for name in unlearned)


def test_a_study_whose_policy_is_damaged_goes_on_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, sampler=ARRLSampler(seed=0, batch_size=4))
    study.optimize(bowl, n_trials=9)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute(
            "UPDATE arrl_policy_versions SET weights = x'00' WHERE version = "
            "(SELECT max(version) FROM arrl_policy_versions)"
        )
    resumed = optuna.load_study(
        study_name=study.study_name, storage=url, sampler=ARRLSampler(seed=0, batch_size=4)
    )
    optuna.logging.enable_propagation()
    resumed.optimize(bowl, n_trials=6)
    optuna.logging.disable_propagation()
    (said,) = [r.message for r in caplog.records if "olicy" in r.message]
    assert "is damaged" in said and "another release" not in said
    assert {t.user_attrs["arrl:policy_version"] for t in resumed.trials[9:]} == {0}


def test_a_study_of_another_release_s_network_goes_on_and_says_so_once(
    study: optuna.Study, caplog: pytest.LogCaptureFixture
) -> None:
    study.optimize(bowl, n_trials=5)
    store = store_of(study)
    narrower = save(PolicyNetwork(width=32).state_dict())
    damaged = dataclasses.replace(
        store.load(1), version=2, weights=narrower, sha256=hashlib.sha256(narrower).hexdigest()
    )
    assert store.append(damaged)
    study.sampler = ARRLSampler(seed=0, batch_size=4)
    optuna.logging.enable_propagation()
    study.optimize(bowl, n_trials=6)
    optuna.logging.disable_propagation()
    said = [r.message for r in caplog.records if "another release" in r.message]
    assert len(said) == 1 and "does not learn" in said[0]
    assert len(store.records()) == 3
    assert {t.user_attrs["arrl:policy_version"] for t in study.trials[5:]} == {0}
