"""The figures that optuna-dashboard shows on a study's page, read back from where it looks."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import json
import math
from pathlib import Path
import sys
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
import optuna_dashboard
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
import pytest
import sqlalchemy

from optuna_arrl import figures
from optuna_arrl.figures import BEST_SO_FAR_ID
from optuna_arrl.figures import IMPORTANCES_ID
from optuna_arrl.figures import POLICY_ID
from optuna_arrl.figures import save_figures
from optuna_arrl.policy_store import open_policy_store
from optuna_arrl.policy_store import study_key
from optuna_arrl.sampler import ARRLSampler
from optuna_arrl.trajectory import ARTIFACTS_KEY
from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import FAILURE_BPB
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REUSED_FROM_KEY


NOISE = 0.01


@pytest.fixture(autouse=True)
def _nothing_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_warned", set())


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What has been warned of, once the figures' logger speaks."""
    optuna.logging.enable_propagation()
    yield lambda: [r.message for r in caplog.records if "Figures" in r.message]
    optuna.logging.disable_propagation()


@pytest.fixture(params=["memory", "sqlite", "journal"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    """An empty study of each storage, that knows where artifacts go."""
    storage: Any = None
    if request.param == "sqlite":
        storage = f"sqlite:///{tmp_path / 'study.db'}"
    elif request.param == "journal":
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    made = optuna.create_study(storage=storage)
    made._storage.set_study_system_attr(made._study_id, ARTIFACTS_KEY, str(tmp_path))
    return made


def scores(
    values: list[float | Outcome], direction: str = "minimize", noise: float = NOISE
) -> optuna.Study:
    """A study whose trial 0 is the baseline, and whose noise is that of its profile."""
    made = optuna.create_study(direction=direction)
    manifest = {"profile": {"repeat_noise": noise}}
    made._storage.set_study_system_attr(made._study_id, MANIFEST_KEY, manifest)
    for number, value in enumerate(values):
        failed = isinstance(value, Outcome)
        made.add_trial(
            trial(
                FAILURE_BPB if failed else value,
                {"x": 0.0},
                outcome=value if failed else Outcome.COMPLETE,
                system_attrs={BASELINE_KEY: True} if number == 0 else {},
            )
        )
    return made


def trial(
    value: float,
    params: dict[str, Any],
    *,
    outcome: Outcome = Outcome.COMPLETE,
    **attrs: Any,
) -> FrozenTrial:
    user_attrs = {OUTCOME_KEY: outcome.value, **attrs.pop("user_attrs", {})}
    return create_trial(
        value=value,
        params=params,
        distributions={
            name: CategoricalDistribution(["a", "b"])
            if isinstance(of, str)
            else FloatDistribution(0, 1)
            for name, of in params.items()
        },
        user_attrs=user_attrs,
        **attrs,
    )


def drawn(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """What the dashboard's page of a study would draw, by id."""
    attrs = study._storage.get_study_system_attrs(study._study_id)
    return {name: json.loads(text) for name, text in get_plotly_graph_objects(attrs).items()}


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (t for t in figure["data"] if t.get("name") == name)
    return found


def bowl(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -5, 5) ** 2 + trial.suggest_float("y", -5, 5) ** 2


def test_best_so_far_has_steps_interval_baseline_and_failures() -> None:
    study = scores([2.0, 2.1, Outcome.CRASH, 1.9, 1.95, 1.7, Outcome.OOM])
    study.enqueue_trial({"x": 0.5})
    study.add_trial(create_trial(state=TrialState.PRUNED, value=1.0))
    study.ask()  # takes the one that waits, and runs: neither is shown
    save_figures(study)
    figure = drawn(study)[BEST_SO_FAR_ID]
    best = trace(figure, "best so far")
    assert (best["x"], best["y"]) == ([0, 3, 5, 8], [2.0, 1.9, 1.7, 1.7])
    assert best["line"]["shape"] == "hv"
    half = 1.96 * NOISE
    for name, side in (("lower", -1), ("95 % of its repeats", 1)):
        edge = trace(figure, name)
        assert edge["x"] == best["x"]
        assert edge["y"] == pytest.approx([value + side * half for value in best["y"]])
    base = trace(figure, "baseline")
    assert (base["x"], base["y"]) == ([0, 8], [2.0, 2.0])
    points = trace(figure, "score of a trial")
    assert (points["x"], points["y"]) == ([0, 1, 3, 4, 5], [2.0, 2.1, 1.9, 1.95, 1.7])
    failed = trace(figure, "no score")
    assert (failed["x"], failed["y"]) == ([2, 6, 8], ["crash", "oom", "pruned"])
    assert failed["yaxis"] == "y2"
    layout = figure["layout"]
    assert layout["yaxis"]["title"]["text"] == "val_bpb (bits per byte)"
    assert layout["title"]["text"] == "Best so far: 1.7 ± 0.02 (trial 5); baseline: 2"


def test_best_so_far_steps_up_where_the_study_maximises() -> None:
    study = scores([0.5, 0.4, 0.9, 0.8], direction="maximize")
    save_figures(study)
    best = trace(drawn(study)[BEST_SO_FAR_ID], "best so far")
    assert (best["x"], best["y"]) == ([0, 2, 3], [0.5, 0.9, 0.9])


def test_a_study_without_noise_has_no_interval() -> None:
    study = optuna.create_study()
    study.add_trials([trial(1.0, {"x": 0.1}), trial(1.0, {"x": 0.2})])
    save_figures(study)
    figure = drawn(study)[BEST_SO_FAR_ID]
    assert [t["name"] for t in figure["data"]] == ["score of a trial", "best so far"]
    assert "range" not in figure["layout"]["yaxis"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "value"


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_axis_begins_with_the_better_scores_and_the_baseline(direction: str, sign: float) -> None:
    values: list[float | Outcome] = [sign * value for value in (3.0, 2.0, 2.1, 2.2, 9.0)]
    study = scores(values, direction)
    save_figures(study)
    low, high = drawn(study)[BEST_SO_FAR_ID]["layout"]["yaxis"]["range"]
    near, far = (low, high) if sign > 0 else (-high, -low)
    assert near < 2.0 - 1.96 * NOISE
    assert 3.0 + 1.96 * NOISE < far < 9.0


def _importance_trials() -> list[FrozenTrial]:
    """60 trials: `good` decides the score, `breaks` whether there is one, `idle` nothing."""
    trials = []
    for i in range(60):
        params = {"good": i / 60, "breaks": "ab"[i % 3 > 0], "idle": (7 * i % 60) / 60}
        failed = params["breaks"] == "b"
        outcome = Outcome.CRASH if failed else Outcome.COMPLETE
        value = FAILURE_BPB if failed else 1.0 + params["good"]
        trials.append(trial(value, params, outcome=outcome))
    return trials


def test_a_slot_that_only_decides_crashes_has_no_importance() -> None:
    study = optuna.create_study()
    study.add_trials(_importance_trials())
    save_figures(study)
    figure = drawn(study)[IMPORTANCES_ID]
    (bars,) = figure["data"]
    shares = dict(zip(bars["y"], bars["x"], strict=True))
    assert list(shares) == ["good", "idle"]
    assert shares["good"] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
    title = figure["layout"]["xaxis"]["title"]["text"]
    assert title == "importance for the best 5 of 20 trials (share)"
    # With the crashes, it would matter more than a slot that does nothing.
    swamped = optuna.importance.get_param_importances(study)
    assert swamped["breaks"] > 2 * swamped["idle"]


def test_importances_of_a_maximised_study_are_those_of_the_minimised() -> None:
    shares = []
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(direction=direction)
        for made in _importance_trials():
            if made.value != FAILURE_BPB:
                study.add_trial(trial(sign * (made.value or 0.0), made.params))
        save_figures(study)
        (bars,) = drawn(study)[IMPORTANCES_ID]["data"]
        shares.append((bars["y"], bars["x"]))
    assert shares[0] == shares[1]


def test_a_reused_score_is_not_counted_twice() -> None:
    alone, twice = optuna.create_study(), optuna.create_study()
    for study in (alone, twice):
        study.add_trials(_importance_trials())
    twice.add_trial(
        trial(1.5, {"good": 1.0, "breaks": "a", "idle": 0.0}, user_attrs={REUSED_FROM_KEY: 1})
    )
    for study in (alone, twice):
        save_figures(study)
    assert drawn(alone)[IMPORTANCES_ID] == drawn(twice)[IMPORTANCES_ID]


def test_importances_wait_for_ten_trials_that_differ() -> None:
    study = optuna.create_study()
    study.add_trials([trial(i / 9, {"x": i / 9}) for i in range(9)])
    save_figures(study)
    assert drawn(study).keys() == {BEST_SO_FAR_ID}
    study.add_trial(trial(0.5, {"x": 0.55}))
    save_figures(study)
    assert drawn(study).keys() == {BEST_SO_FAR_ID, IMPORTANCES_ID}
    alike = optuna.create_study()
    alike.add_trials([trial(1.0, {"x": i / 20}) for i in range(20)])
    save_figures(alike)
    assert drawn(alike).keys() == {BEST_SO_FAR_ID}


def test_only_the_most_important_slots_are_shown() -> None:
    study = optuna.create_study()
    for i in range(12):
        params = {f"module.function.with_a_long_name.{n}": (n * i % 12) / 12 for n in range(25)}
        study.add_trial(trial(i / 12, params))
    save_figures(study)
    figure = drawn(study)[IMPORTANCES_ID]
    (bars,) = figure["data"]
    assert len(bars["x"]) == 20
    assert bars["x"] == sorted(bars["x"], reverse=True)
    assert "20 of 25 slots" in figure["layout"]["title"]["text"]
    assert all(len(label) <= 36 for label in figure["layout"]["yaxis"]["ticktext"])


def test_figures_of_a_policy_are_what_its_versions_measured(study: optuna.Study) -> None:
    study.sampler = ARRLSampler(seed=0, batch_size=4)
    study.optimize(bowl, n_trials=9, callbacks=[save_figures])
    figure = drawn(study)[POLICY_ID]
    records = study.sampler.policy_versions(study)
    assert [record.version for record in records] == [0, 1, 2]
    names = [t["name"] for t in figure["data"]]
    assert names == [
        *("approx_kl", "reference_kl", "entropy", "clip_fraction"),
        *("explained_variance", "mean_reward"),
    ]
    for name in names:
        panel = trace(figure, name)
        assert panel["x"] == [1, 2]
        expected = [record.statistics[name] for record in records[1:]]
        assert all(isinstance(value, float) for value in expected)
        if name == "explained_variance":
            expected = [max(value, -1.0) for value in expected]
        assert panel["y"] == pytest.approx(expected, rel=1e-5)
    assert "mean reward (scale-free)" in [a["text"] for a in figure["layout"]["annotations"]]


def test_an_update_that_explained_nothing_does_not_flatten_the_others() -> None:
    study = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4))
    study.optimize(lambda trial: 1.0 + 1e-9 * bowl(trial), n_trials=9)
    assert isinstance(study.sampler, ARRLSampler)
    measured = [r.statistics for r in study.sampler.policy_versions(study)[1:]]
    assert min(statistics["explained_variance"] for statistics in measured) < -1.5
    save_figures(study)
    assert min(trace(drawn(study)[POLICY_ID], "explained_variance")["y"]) == -1.0


def test_an_update_that_measured_nothing_is_a_gap(tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", sampler=ARRLSampler(seed=0, batch_size=2)
    )
    study.optimize(bowl, n_trials=5)
    first = open_policy_store(study, study_key(study) or "").records()[1]
    assert "entropy" not in first.statistics  # of trials 0 and 1, too few to learn from
    save_figures(study)
    assert trace(drawn(study)[POLICY_ID], "entropy")["y"][0] is None


def test_a_study_of_another_sampler_has_no_figure_of_a_policy(study: optuna.Study) -> None:
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(bowl, n_trials=12)
    save_figures(study)
    assert drawn(study).keys() == {BEST_SO_FAR_ID, IMPORTANCES_ID}
    engine = getattr(getattr(study._storage, "_backend", None), "engine", None)
    if engine is not None:  # nor a table for its versions
        assert not sqlalchemy.inspect(engine).has_table("arrl_policy_versions")


def test_saving_again_replaces_what_was_there(study: optuna.Study) -> None:
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(bowl, n_trials=60)
    save_figures(study)
    keys = set(study._storage.get_study_system_attrs(study._study_id))
    before = drawn(study)
    save_figures(study)
    assert set(study._storage.get_study_system_attrs(study._study_id)) == keys
    assert drawn(study) == before
    study.optimize(lambda trial: bowl(trial) - 100, n_trials=1)
    save_figures(study)
    after = drawn(study)
    assert after.keys() == before.keys()
    assert len(trace(after[BEST_SO_FAR_ID], "score of a trial")["x"]) == 61
    assert trace(after[BEST_SO_FAR_ID], "best so far")["y"][-1] < -50


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the trials after which figures were saved."""
    saved: list[int] = []
    save = optuna_dashboard.save_plotly_graph_object

    def spy(study: optuna.Study, figure: Any, *, graph_object_id: str) -> str:
        if graph_object_id == BEST_SO_FAR_ID:
            saved.append(len(study.trials) - 1)
        return save(study, figure, graph_object_id=graph_object_id)

    monkeypatch.setattr(optuna_dashboard, "save_plotly_graph_object", spy)
    return saved


def test_as_a_callback_it_saves_once_for_each_version(
    study: optuna.Study, saved: list[int]
) -> None:
    study.sampler = ARRLSampler(seed=0, batch_size=4)
    study.optimize(bowl, n_trials=10, callbacks=[save_figures])
    assert saved == [1, 4, 8]  # trial 0 had nothing to choose by; then versions 0, 1 and 2
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(bowl, n_trials=3, callbacks=[save_figures])
    assert saved == [1, 4, 8]


def test_as_a_callback_it_saves_every_16th_trial_of_a_version_that_stays(
    study: optuna.Study, saved: list[int]
) -> None:
    study.sampler = ARRLSampler(seed=0, policy="acquisition")
    study.optimize(bowl, n_trials=35, callbacks=[save_figures])
    assert saved == [1, 17, 33]


def test_a_value_that_is_not_finite_is_a_trial_without_score() -> None:
    study = optuna.create_study()
    study.add_trials([trial(1.0, {"x": 0.1}), trial(math.inf, {"x": 0.2})])
    save_figures(study)
    missing = trace(drawn(study)[BEST_SO_FAR_ID], "no score")
    assert (missing["x"], missing["y"]) == ([1], ["not finite"])


def test_a_broken_figure_leaves_the_others_and_the_study_be(
    monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    def broken(study: optuna.Study) -> None:
        raise ZeroDivisionError("no such slot")

    monkeypatch.setattr(figures, "_best_so_far", broken)
    study = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4))
    study.optimize(bowl, n_trials=12, callbacks=[save_figures])
    save_figures(study)
    assert len(study.trials) == 12
    assert drawn(study).keys() == {POLICY_ID, IMPORTANCES_ID}
    (message,) = warned()
    assert "no such slot" in message and study.study_name in message


def test_without_plotly_a_study_goes_on(
    monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    study = optuna.create_study(sampler=ARRLSampler(seed=0, batch_size=4))
    study.optimize(bowl, n_trials=6, callbacks=[save_figures])
    assert drawn(study) == {}
    assert len(warned()) == 1


def test_a_study_of_two_objectives_has_no_figures(warned: Callable[[], list[str]]) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.optimize(lambda trial: (bowl(trial), 0.0), n_trials=2)
    save_figures(study)
    assert drawn(study) == {}
    (message,) = warned()
    assert "2 objectives" in message


def test_a_study_without_trials_has_none_and_no_warning(
    study: optuna.Study, warned: Callable[[], list[str]]
) -> None:
    save_figures(study)
    assert drawn(study) == {}
    assert warned() == []
