"""ARRLSampler on studies of every kind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import math
from pathlib import Path
import pickle
import subprocess
import sys
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
import pytest
import torch

from optuna_arrl.sampler import ARRLSampler
from optuna_arrl.sampler.learner import shipped_policy
from optuna_arrl.sampler.state import pending_edits
from optuna_arrl.sampler.state import search_space
from optuna_arrl.sampler.state import seen_trials
from optuna_arrl.sampler.state import situation_of
from optuna_arrl.trajectory import Action
from optuna_arrl.trajectory import PARENT_KEY
from optuna_arrl.trajectory import POLICY_VERSION_KEY
from optuna_arrl.trajectory import SAMPLER_SEED_KEY


@pytest.fixture(params=["memory", "sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    if request.param == "memory":
        return InMemoryStorage()
    if request.param == "sqlite":
        return optuna.storages.get_storage(f"sqlite:///{tmp_path / 'study.db'}")
    return JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))


def bowl(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    k = trial.suggest_int("k", 1, 64, log=True)
    c = trial.suggest_categorical("c", ["relu", "gelu", None])
    return (x - 1) ** 2 + math.log2(k / 8) ** 2 + (c != "gelu")


def action(trial: optuna.trial.FrozenTrial) -> Action:
    found = Action.decode(trial.system_attrs)
    assert found is not None
    return found


def test_actions_are_stored_and_can_be_drawn_again(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage, sampler=ARRLSampler(seed=7))
    study.optimize(bowl, n_trials=5)
    assert Action.decode(study.trials[0].system_attrs) is None  # nothing to choose between yet
    for trial in study.trials[1:]:
        stored = action(trial)
        seen = seen_trials(study.trials, trial.number, stored.unseen)
        assert [t.number for t in seen] == list(range(trial.number))
        again = situation_of(seen, search_space(seen), study.direction, 7, trial.number)
        assert again.candidates.digest() == stored.candidates
        assert again.params(stored.index) == trial.params
        assert trial.user_attrs.get(PARENT_KEY) == stored.parent
        assert trial.user_attrs[POLICY_VERSION_KEY] == stored.policy_version == 0
        parent = {} if stored.parent is None else study.trials[stored.parent].params
        assert {**parent, **(stored.edit or {})} == trial.params
        assert stored.log_prob < 0


def test_objective_sees_what_was_stored(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage, sampler=ARRLSampler(seed=0))
    versions: list[Any] = []

    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        versions.append(trial.user_attrs.get(POLICY_VERSION_KEY))
        return value

    study.optimize(objective, n_trials=2)
    assert versions == [None, 0]


def test_it_finds_the_bottom_of_a_bowl() -> None:
    # 40 uniform draws come below 0.5 with probability 0.4; the sampler has to, with every seed.
    for seed in range(3):
        study = optuna.create_study(sampler=ARRLSampler(seed=seed))
        study.optimize(bowl, n_trials=40)
        assert study.best_value < 0.5


def test_first_proposal_moves_locally_from_an_enqueued_baseline() -> None:
    moved = 0
    baseline = {"x": 1.5, "k": 8, "c": "gelu"}
    for seed in range(10):
        study = optuna.create_study(sampler=ARRLSampler(seed=seed))
        study.enqueue_trial(baseline)
        study.optimize(bowl, n_trials=2)
        first, second = study.trials
        assert first.params == baseline
        moved += second.user_attrs.get(PARENT_KEY) == 0
    assert moved >= 9  # all but what the exploration floor draws, one in a thousand


def wide_script(trial: optuna.Trial) -> float:
    """40 slots of every kind; the baseline is near the best of each."""
    loss = 0.0
    for i in range(10):
        loss += math.log10(trial.suggest_float(f"rate{i}", 1e-4, 1e-2, log=True) / 1e-3) ** 2
        loss += (trial.suggest_float(f"share{i}", 0.0, 1.0) - 0.45) ** 2
        loss += (trial.suggest_int(f"log2_size{i}", 2, 10) - 6) ** 2 / 64
        loss += 0.1 * (trial.suggest_categorical(f"kind{i}", ["a", "b", "c"]) != "a")
    return loss


WIDE_BASELINE: dict[str, Any] = {
    name: value
    for i in range(10)
    for name, value in {
        f"rate{i}": 1e-3,
        f"share{i}": 0.5,
        f"log2_size{i}": 6,
        f"kind{i}": "a",
    }.items()
}


@pytest.mark.parametrize("failed", [False, True])
def test_edits_after_a_scored_baseline_are_small(failed: bool) -> None:
    anywhere = 0  # the floor draws from the whole space at one trial in a thousand
    for seed in range(12):
        study = optuna.create_study(sampler=ARRLSampler(seed=seed))
        study.enqueue_trial(WIDE_BASELINE)
        study.optimize(wide_script, n_trials=1)
        for state in (TrialState.FAIL if failed else TrialState.COMPLETE, TrialState.COMPLETE):
            trial = study.ask()
            value = wide_script(trial)
            if PARENT_KEY in trial.user_attrs:
                parent = study.trials[trial.user_attrs[PARENT_KEY]].params
                changed = [name for name in trial.params if trial.params[name] != parent[name]]
                assert 1 <= len(changed) <= 5
            else:
                anywhere += 1
            study.tell(trial, value if state == TrialState.COMPLETE else None, state)
    assert anywhere <= 1


def test_minimise_and_maximise_mirror() -> None:
    down = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4))
    down.optimize(bowl, n_trials=10)
    up = optuna.create_study(direction="maximize", sampler=ARRLSampler(seed=0, batch_size=4))
    up.optimize(lambda trial: -bowl(trial), n_trials=10)
    assert [t.params for t in down.trials] == [t.params for t in up.trials]


def test_failed_pruned_and_nan_trials_are_lived_with(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage, sampler=ARRLSampler(seed=0, batch_size=4))

    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        if trial.number % 5 == 1:
            raise RuntimeError
        if trial.number % 5 == 2:
            return math.nan
        if trial.number % 5 == 3:
            trial.report(value, 1)
            raise optuna.TrialPruned
        return math.inf if trial.number % 5 == 4 else value

    study.optimize(objective, n_trials=11, catch=RuntimeError)
    states = [t.state for t in study.trials]
    assert states.count(TrialState.FAIL) == 4
    assert states.count(TrialState.PRUNED) == 2
    assert action(study.trials[10]).policy_version == 2


def test_failures_are_avoided() -> None:
    # Half of the space crashes: of 30 uniform draws 15 ± 3 would.
    def objective(trial: optuna.Trial) -> float:
        x = [trial.suggest_float(f"x{i}", 0, 1) for i in range(6)]
        return math.nan if x[0] > 0.5 else sum((value - 0.25) ** 2 for value in x)

    study = optuna.create_study(sampler=ARRLSampler(seed=1))
    study.enqueue_trial({f"x{i}": 0.4 for i in range(6)})
    study.optimize(objective, n_trials=30)
    assert sum(t.state == TrialState.FAIL for t in study.trials) < 8


def test_conditional_parameters_are_part_of_the_edit() -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return trial.suggest_float("a", 0, 1)
        return 1 + trial.suggest_float("b", 0, 1, step=0.25)

    study = optuna.create_study(sampler=ARRLSampler(seed=0))
    study.enqueue_trial({"kind": "a"})
    study.enqueue_trial({"kind": "b"})
    study.optimize(objective, n_trials=12)
    assert set(search_space(study.trials)) == {"kind", "a", "b"}
    for trial in study.trials[2:]:
        stored = action(trial)
        assert stored.edit is not None
        assert trial.params.items() <= {**params_of(study, stored.parent), **stored.edit}.items()


def params_of(study: optuna.Study, number: int | None) -> dict[str, Any]:
    return {} if number is None else study.trials[number].params


def test_changing_ranges_and_single_values() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))

    def objective(trial: optuna.Trial, low: float, high: float) -> float:
        trial.suggest_int("one", 3, 3)
        return trial.suggest_float("x", low, high)

    for low, high in [(0, 1), (0, 1), (0, 4), (2, 3), (2, 2), (2, 3)]:
        study.optimize(lambda trial, lo=low, hi=high: objective(trial, lo, hi), n_trials=3)
        assert all(
            low <= t.params["x"] <= high and t.params["one"] == 3 for t in study.trials[-3:]
        )


def test_partly_enqueued_trials_have_no_action() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))
    study.optimize(bowl, n_trials=2)
    study.enqueue_trial({"x": 0.125})
    study.optimize(bowl, n_trials=1)
    assert study.trials[2].params["x"] == 0.125
    assert Action.decode(study.trials[2].system_attrs) is None


def test_trials_still_running_are_not_seen(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage, sampler=ARRLSampler(seed=0))
    study.optimize(bowl, n_trials=2)
    late = study.ask()
    trial = study.ask()
    bowl(trial)
    assert action(study.trials[3]).unseen == ((2, 2),)
    study.tell(late, state=TrialState.FAIL)
    study.tell(trial, 1.0)
    stored = action(study.trials[3])
    seen = seen_trials(study.trials, 3, stored.unseen)
    assert [t.number for t in seen] == [0, 1]
    again = situation_of(seen, search_space(seen), study.direction, stored.seed, 3)
    assert again.candidates.digest() == stored.candidates


def test_edits_of_trials_that_run_are_known_and_the_state_can_be_made_again(
    storage: BaseStorage,
) -> None:
    sampler = ARRLSampler(seed=0, policy="acquisition")
    study = optuna.create_study(storage=storage, sampler=sampler)
    study.optimize(bowl, n_trials=6)
    study.enqueue_trial({"x": 0.125})
    running = [study.ask() for _ in range(3)]
    for trial in running:
        trial.suggest_float("x", -5, 5)  # an edit is drawn as a whole at the first question
    last = study.ask()
    bowl(last)
    params = last.params
    stored = action(study.trials[9])
    assert stored.unseen == stored.pending == ((6, 8),)
    for trial in (*running, last):
        study.tell(trial, 1.0)
    seen = seen_trials(study.trials, 9, stored.unseen)
    edits = pending_edits(study.trials, stored.pending)
    assert edits[0] == {"x": 0.125}
    again = situation_of(seen, search_space(seen), study.direction, 0, 9, edits)
    assert len(again.history) == 6 + 3 and len(again.trials) == 6
    assert again.candidates.digest() == stored.candidates
    assert again.params(stored.index) == params
    log_probs, _ = shipped_policy("acquisition").judge(again)
    assert float(log_probs[stored.index]) == stored.log_prob


def test_edits_under_way_are_not_drawn_again_while_there_are_others() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))

    def choice(trial: optuna.Trial) -> str:
        return str(trial.suggest_categorical("c", ["a", "b", "c", "d"]))

    first = study.ask()
    choice(first)
    study.tell(first, 1.0)
    drawn = [choice(study.ask()) for _ in range(3)]
    assert sorted([first.params["c"], *drawn]) == ["a", "b", "c", "d"]
    assert choice(study.ask()) in "abcd"


def test_of_an_edit_under_way_nothing_more_is_to_be_learned() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0))
    study.optimize(bowl, n_trials=8)
    trials, space = study.trials, search_space(study.trials)
    alone = situation_of(trials, space, study.direction, 0, 8)
    edit = alone.params(int(alone.candidates.legal[0].nonzero()[0]))
    beside = situation_of(trials, space, study.direction, 0, 8, [edit])
    point = torch.from_numpy(alone.space.encode(edit))[None, None]
    before, after = (s.surrogate.predict(point) for s in (alone, beside))
    assert float(after.sd) < 0.7 * float(before.sd)
    # It is not believed to beat what was measured.
    assert float(beside.history.losses[0, -1]) >= min(t.value or 0.0 for t in trials)


def test_two_threads_share_a_sampler(storage: BaseStorage) -> None:
    sampler = ARRLSampler(seed=0, batch_size=4)
    study = optuna.create_study(storage=storage, sampler=sampler)
    study.optimize(bowl, n_trials=12, n_jobs=2)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 12
    # Each draws candidates of its own; of whole numbers and choices two may choose alike.
    drawn = [tuple(t.params.items()) for t in study.trials]
    assert len(set(drawn)) >= 10


def test_several_studies_share_a_sampler() -> None:
    shared = ARRLSampler(seed=3, batch_size=4)
    studies = [optuna.create_study(sampler=shared) for _ in range(2)]
    for _ in range(9):
        studies[0].optimize(bowl, n_trials=1)
        studies[1].optimize(lambda trial: trial.suggest_float("other", 0, 1), n_trials=1)
    alone = optuna.create_study(sampler=ARRLSampler(seed=3, batch_size=4))
    alone.optimize(bowl, n_trials=9)
    assert [t.params for t in studies[0].trials] == [t.params for t in alone.trials]


@pytest.mark.parametrize("seed", [None, 5])
def test_pickled_sampler_goes_on_the_same(seed: int | None, tmp_path: Path) -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=seed, batch_size=4))
    study.optimize(bowl, n_trials=6)
    copy = pickle.loads(pickle.dumps(study))
    assert all(sys.getsizeof(pickle.dumps(s.sampler)) < 2_000_000 for s in (study, copy))
    study.optimize(bowl, n_trials=3)
    copy.optimize(bowl, n_trials=3)
    assert [t.params for t in study.trials] == [t.params for t in copy.trials]
    assert action(copy.trials[8]).policy_version == 2


def test_no_connection_travels_in_a_pickle(tmp_path: Path) -> None:
    sampler = ARRLSampler(seed=0)
    url = f"sqlite:///{tmp_path / 'secret-name.db'}"
    optuna.create_study(storage=url, sampler=sampler).optimize(bowl, n_trials=2)
    assert b"secret-name" not in pickle.dumps(sampler)


def test_hyperband_shows_a_part_of_the_study_but_all_is_seen() -> None:
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4), pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        for step in range(1, 10):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=10)
    for trial in study.trials[1:]:
        seen = seen_trials(study.trials, trial.number, action(trial).unseen)
        assert len(seen) == trial.number
    assert action(study.trials[9]).policy_version == 2


def test_works_inside_partial_fixed_sampler() -> None:
    sampler = optuna.samplers.PartialFixedSampler({"x": 0.25}, ARRLSampler(seed=0, batch_size=4))
    study = optuna.create_study(sampler=sampler)
    study.optimize(bowl, n_trials=6)
    assert {t.params["x"] for t in study.trials} == {0.25}
    # The search space that its edits are drawn over is not the study's: nothing is learned.
    (_, record) = study.sampler._base_sampler.policy_versions(study)
    assert record.statistics["left_out"] == {"no_action": 1, "other_space": 3}


def test_policies_of_the_studies_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna_arrl.sampler.sampler._MAX_STUDIES", 2)
    sampler = ARRLSampler(seed=0, batch_size=4)
    first, second, third = (optuna.create_study(sampler=sampler) for _ in range(3))
    first.optimize(bowl, n_trials=5)
    for study in (second, first, third):
        study.optimize(bowl, n_trials=1)
    assert [version.version for version in sampler.policy_versions(first)] == [0, 1]


def test_seed_of_the_first_sampler_is_the_studys(storage: BaseStorage) -> None:
    study = optuna.create_study(study_name="s", storage=storage, sampler=ARRLSampler())
    study.optimize(bowl, n_trials=2)
    seed = storage.get_study_system_attrs(study._study_id)[SAMPLER_SEED_KEY]
    later = optuna.load_study(study_name="s", storage=storage, sampler=ARRLSampler())
    later.optimize(bowl, n_trials=1)
    explicit = optuna.load_study(study_name="s", storage=storage, sampler=ARRLSampler(seed=11))
    explicit.optimize(bowl, n_trials=1)
    assert [action(t).seed for t in study.trials[1:]] == [seed, seed, 11]
    assert storage.get_study_system_attrs(study._study_id)[SAMPLER_SEED_KEY] == seed


def test_reseeding_outranks_the_seed() -> None:
    sampler = ARRLSampler(seed=11)
    study = optuna.create_study(sampler=sampler)
    study.optimize(bowl, n_trials=2)
    sampler.reseed_rng()
    study.optimize(bowl, n_trials=1)
    assert action(study.trials[1]).seed == 11
    assert action(study.trials[2]).seed != 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"seed": 1.5}, "`seed` must be a whole number of at least 0"),
        ({"batch_size": 1}, "`batch_size` must be a whole number of at least 2"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number of at least 2"),
        ({"batch_size": "16"}, "`batch_size` must be a whole number of at least 2"),
        ({"policy": 3}, "`policy` must be a safetensors file"),
        ({"policy": "/no/such/file"}, "`policy` must be a safetensors file"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ARRLSampler(**arguments)


def test_file_that_holds_no_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    study = optuna.create_study(sampler=ARRLSampler(policy=tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="with the weights of a PolicyNetwork"):
        study.optimize(bowl, n_trials=1)


@pytest.mark.parametrize("call", ["ask", "learn"])
def test_several_objectives_are_refused(call: str) -> None:
    sampler = ARRLSampler()
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    calls: dict[str, Callable[[], object]] = {
        "ask": study.ask,
        "learn": lambda: sampler.learn(study),
    }
    with pytest.raises(ValueError, match="multi-objective"):
        calls[call]()


def test_failing_learner_does_not_end_the_study(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from optuna_arrl.sampler import learner

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(learner.MemoryPolicyStore, "append", fail)
    optuna.logging.enable_propagation()
    study = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=2))
    study.optimize(bowl, n_trials=6)
    optuna.logging.disable_propagation()
    assert len(study.trials) == 6
    assert sum("disk full" in record.message for record in caplog.records) == 1


def test_importing_the_sampler_does_not_import_torch() -> None:
    code = "import sys, optuna_arrl.sampler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_threads_learn_each_batch_once(tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", sampler=ARRLSampler(seed=0, batch_size=4)
    )
    study.optimize(bowl, n_trials=4)
    with ThreadPoolExecutor(4) as pool:
        trials = list(pool.map(lambda _: study.ask(), range(4)))
    assert len({t.number for t in trials}) == 4
    from optuna_arrl.policy_store import open_policy_store
    from optuna_arrl.policy_store import study_key

    key = study_key(study)
    assert key is not None
    records = open_policy_store(study, key).records()
    assert [record.consumed for record in records] == [(), (0, 1, 2, 3)]
