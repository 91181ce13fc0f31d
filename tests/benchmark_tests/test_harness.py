"""Studies: the same start and noise for every sampler, nothing run twice, the incumbent judged."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution
import pytest

from benchmarks.samplers import harness
from benchmarks.samplers import rivals
from benchmarks.samplers import suites
from benchmarks.samplers.report import best_settings
from benchmarks.samplers.report import parallel_loss
from benchmarks.samplers.report import summary
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.rivals import Setting
from benchmarks.samplers.study import incumbents
from benchmarks.samplers.study import run_study
from benchmarks.samplers.study import start_of
from benchmarks.samplers.tables import loss_table
from benchmarks.samplers.tables import published_table
from benchmarks.samplers.tables import sampler_table
from benchmarks.samplers.tables import settings_table
from benchmarks.samplers.task import Outcome
from benchmarks.samplers.task import Task


RIVALS = [name for name in CONTENDERS if name != "gp-local"]


def _evaluate(params: Mapping[str, Any], rng: np.random.Generator) -> Outcome:
    """A bowl in the unit square that crashes where x > .8, and then ends early."""
    x, y = params["x"], params["y"]
    if x > 0.8:
        return Outcome(None, None, seconds=1.0)
    truth = 1.0 + (x - 0.3) ** 2 + (y - 0.7) ** 2
    return Outcome(truth + 0.01 * rng.standard_normal(), truth, seconds=10.0)


SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
BOWL = Task("bowl", "1", SPACE, _evaluate, default={"x": 0.6, "y": 0.6}, failure=8.0)
NO_DEFAULT = Task("nowhere", "1", SPACE, _evaluate)


@pytest.fixture
def toy_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.SUITES, "toy", ["bowl"])
    monkeypatch.setattr(harness, "task", lambda name: BOWL)
    monkeypatch.setattr("benchmarks.samplers.report.task", lambda name: BOWL)


@pytest.mark.parametrize("sampler", RIVALS)
def test_trial_0_is_the_default_with_the_same_noise_for_every_sampler(sampler: str) -> None:
    setting = CONTENDERS[sampler].settings(BOWL)[0]
    record = run_study(BOWL, sampler, setting, seed=3, trials=3)
    reference = run_study(BOWL, "random", Setting(), seed=3, trials=3)
    assert record["truth"][0] == pytest.approx(1.0 + 0.3**2 + 0.1**2)
    assert record["observed"][0] == reference["observed"][0] != record["truth"][0]


def test_without_a_default_a_seed_has_one_start_for_all() -> None:
    first = {
        name: run_study(NO_DEFAULT, name, Setting(), seed=5, trials=1)["truth"][0]
        for name in ("random", "tpe", "cmaes")
    }
    assert len(set(first.values())) == 1
    assert start_of(NO_DEFAULT, 5) != start_of(NO_DEFAULT, 6)


def test_a_study_is_a_function_of_its_seed() -> None:
    runs = [run_study(BOWL, "tpe", Setting(), seed=seed, trials=15) for seed in (0, 0, 1)]
    assert runs[0]["observed"] == runs[1]["observed"] != runs[2]["observed"]


def test_crashes_are_told_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    told: dict[str, list[float]] = {}
    tell = optuna.Study.tell
    for coding in ("failure", "worst", "failure+constraint"):
        trials: list[Any] = []

        def spy(study: Any, trial: Any, value: Any, kept: list[Any] = trials) -> Any:
            kept.append(tell(study, trial, value))
            return kept[-1]

        monkeypatch.setattr(optuna.Study, "tell", spy)
        record = run_study(BOWL, "random", Setting(coding), seed=0, trials=30)
        ran = [value for value in record["observed"] if value is not None]
        assert 0 < len(ran) < 30
        for n, (trial, value) in enumerate(zip(trials, record["observed"], strict=True)):
            if value is None:
                so_far = [v for v in record["observed"][:n] if v is not None]
                expected = max(so_far) if coding == "worst" else 8.0
                assert trial.values[0] == pytest.approx(expected)
            constraints = trial.constraints if coding == "failure+constraint" else None
            if constraints is not None:
                assert (max(constraints.values()) > 0) == (value is None)
        told[coding] = [trial.values[0] for trial in trials]
    assert told["failure"] == told["failure+constraint"] != told["worst"]


def test_the_incumbent_is_the_best_observed_and_counts_without_noise() -> None:
    record = {
        "observed": [1.0, None, 0.8, 0.9, 0.7],
        "truth": [0.95, None, 0.97, 0.6, 0.9],
    }
    np.testing.assert_allclose(incumbents(record), [0.95, 0.95, 0.97, 0.97, 0.9])


def test_workers_overlap_on_the_simulated_clock() -> None:
    serial = run_study(BOWL, "random", Setting(), seed=0, trials=20)
    seconds = [1.0 if value is None else 10.0 for value in serial["truth"]]
    np.testing.assert_allclose(serial["clock"], np.cumsum(seconds))
    parallel = run_study(BOWL, "random", Setting(), seed=0, trials=20, workers=4)
    # The same trials, since random search looks at none of them; crashes end first.
    assert sorted(parallel["truth"], key=str) == sorted(serial["truth"], key=str)
    assert parallel["clock"] == sorted(parallel["clock"])
    assert parallel["truth"][0] == serial["truth"][0]  # the default, alone and first
    assert parallel["clock"][-1] < serial["clock"][-1] / 2


def test_nothing_is_run_twice_and_what_is_missing_is(tmp_path: Path, toy_suite: None) -> None:
    records = tmp_path / "records.jsonl"
    first = harness.plans("toy", ["random"], [0, 1], 5)
    assert len(list(harness.run(first, records))) == 2
    assert list(harness.run(first, records)) == []
    more = harness.plans("toy", ["random"], [0, 1, 2], 5)
    assert [record["seed"] for record in harness.run(more, records)] == [2]
    longer = harness.plans("toy", ["random"], [0], 8)
    assert [len(record["truth"]) for record in harness.run(longer, records)] == [8]
    assert len(records.read_text().splitlines()) == 4


def test_other_weights_supersede_what_was_learned_and_not_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, source = tmp_path / "sampler/policy.safetensors", tmp_path / "sampler/policy.py"
    weights.parent.mkdir()
    for path in (weights, source, tmp_path / "trajectory.py"):
        path.write_text("before")
    monkeypatch.setattr("optuna_arrl.__file__", str(tmp_path / "__init__.py"))

    def versions() -> tuple[str, str]:
        rivals._digest.cache_clear()
        return CONTENDERS["arrl"].version(), CONTENDERS["gp-local"].version()

    try:
        arrl, gp_local = versions()
        weights.write_text("after")
        assert versions()[0] != arrl
        assert versions()[1] == gp_local
        source.write_text("after")
        assert versions()[1] != gp_local
    finally:
        rivals._digest.cache_clear()


def test_records_of_another_version_do_not_count(tmp_path: Path, toy_suite: None) -> None:
    records = tmp_path / "records.jsonl"
    todo = harness.plans("toy", ["random"], [0], 5)
    (record,) = harness.run(todo, records)
    assert harness.current([record]) == [record]
    stale = record | {"version": "an older task; " + record["version"].split("; ")[1]}
    records.write_text(json.dumps(stale) + "\n")
    assert harness.current([stale]) == []
    assert len(list(harness.run(todo, records))) == 1


def test_a_sampler_without_a_chosen_setting_is_not_run(toy_suite: None) -> None:
    with pytest.raises(ValueError, match="No setting of tpe has been chosen on toy"):
        harness.plans("toy", ["tpe"], [0], 5)
    assert {plan.setting for plan in harness.plans("toy", ["tpe"], [0], 5, all_settings=True)} == {
        "failure",
        "worst",
        "failure+constraint",
    }


def _record(sampler: str, seed: int, values: list[float], setting: str = "failure") -> Any:
    return {
        "task": "bowl",
        "sampler": sampler,
        "setting": setting,
        "seed": seed,
        "workers": 1,
        "version": "1; 1",
        "observed": values,
        "truth": values,
        "ask_seconds": 1.0,
        "tell_seconds": 0.0,
    }


def test_the_summary_against_a_case_worked_out_by_hand(toy_suite: None) -> None:
    # tpe falls by 1 a trial from 100; ours by 2: there at 1 + 99 / 2 trials.
    records = [
        _record("tpe", seed, [100.0 + seed - n for n in range(100)]) for seed in range(5)
    ] + [_record("arrl", seed, [100.0 + seed - 2 * n for n in range(100)]) for seed in range(5)]
    result = summary(records)
    assert result["mean"]["bowl"]["arrl"]["25"][0] == pytest.approx(100 + 2 - 48)
    # Student's t at 4 degrees of freedom is 2.776; the standard deviation of 0 … 4 is 1.5811.
    assert result["mean"]["bowl"]["tpe"]["25"][1] == pytest.approx(
        2.776 * 1.5811 / 5**0.5, rel=0.05
    )
    shown = result["mean of the best observed, noise included"]["bowl"]["tpe"]["50"]
    assert shown[0] == pytest.approx(100 + 2 - 49)
    assert result["mean rank"]["50"] == {"tpe": 2.0, "arrl": 1.0, "seeds": 5}
    p = result["one-sided Wilcoxon, p that the first is below the second"]["100"]
    assert p["arrl"]["tpe"] == pytest.approx(1 / 32, rel=0.01)
    assert result["trials to reach"]["tpe at 100"] == {"tpe": 100, "arrl": 51}
    assert "300" not in result["mean rank"]

    ours, theirs, *_ = sampler_table(result).splitlines()[2:]
    # 100 + 2 - 48, and 2.776 * 1.5811 / √5 to two digits.
    assert ours.startswith("| arrl | failure | 54.0 ± 2.0 | 4.0 ± 2.0 | -96.0 ± 2.0 |  |")
    assert theirs.startswith("| tpe | failure | 78.0 ± 2.0 | 53.0 ± 2.0 | 3.0 ± 2.0 | 0.031, ")
    assert "at that of tpe at 100, no later: tpe 100, arrl 51." in sampler_table(result)


def test_of_several_tasks_the_table_shows_ranks(toy_suite: None) -> None:
    records = []
    for name, gain in (("bowl", 1.0), ("other", 2.0)):
        for sampler, value in (("tpe", 3.0), ("arrl", 3.0 - gain)):
            for seed in range(2):
                records.append(_record(sampler, seed, [value] * 50) | {"task": name})
    lines = sampler_table(summary(records)).splitlines()
    assert lines[2].startswith("| arrl | failure | 1.00 | 1.00 |")
    assert lines[3].startswith("| tpe | failure | 2.00 | 2.00 | 0.25, 0.25 |")


def test_samplers_are_compared_on_common_seeds_where_they_got_so_far(toy_suite: None) -> None:
    records = [_record("tpe", seed, [5.0 + (seed > 1)] * 100) for seed in range(8)]
    records += [_record("gp", seed, [5.5] * 50) for seed in range(2, 7)]
    result = summary(records)
    assert result["mean rank"]["50"] == {"tpe": 2.0, "gp": 1.0, "seeds": 5}
    assert "100" not in result["mean rank"]


def test_a_sampler_with_few_studies_of_a_length_takes_no_seeds_from_the_others(
    toy_suite: None,
) -> None:
    records = [_record("tpe", seed, [6.0] * 100) for seed in range(8)]
    records += [_record("arrl", seed, [5.0] * 100) for seed in range(8)]
    # Four of gp's eight studies went on; at 100 it is below all, and compared with nobody.
    records += [_record("gp", seed, [5.5] * 50 + [1.0] * 50 * (seed < 4)) for seed in range(8)]
    result = summary(records)
    assert result["mean rank"]["50"] == {"arrl": 1.0, "gp": 2.0, "tpe": 3.0, "seeds": 8}
    assert result["mean rank"]["100"] == {"arrl": 1.0, "tpe": 2.0, "seeds": 8}
    assert result["trials to reach"]["tpe at 100"] == {"tpe": 1, "arrl": 1}
    (row,) = [line for line in sampler_table(result).splitlines() if line.startswith("| gp ")]
    assert "1.0000 ± 0.0000 (4 seeds)" in row


def test_studies_shorter_than_any_checkpoint_make_a_table_all_the_same(toy_suite: None) -> None:
    assert "| tpe | failure |" in sampler_table(summary([_record("tpe", 0, [1.0] * 10)]))


def test_the_better_setting_is_chosen(toy_suite: None) -> None:
    # Level at 25 trials, 1 apart at 50: there half a unit to either side of a mean of 1.5, at a
    # standard deviation of .5.
    records = [_record("tpe", seed, [2.0] * 50, "failure") for seed in (1000, 1001)]
    records += [_record("tpe", seed, [2.0] * 30 + [1.0] * 20, "worst") for seed in (1000, 1001)]
    choice = best_settings(records)["tpe"]
    assert choice["setting"] == "worst"
    assert choice["scores"] == {"failure": 0.5, "worst": -0.5}


def test_settings_are_shown_with_what_they_were_chosen_by() -> None:
    chosen = {
        "tpe": {"setting": "worst", "scores": {"failure": 0.5, "worst": -0.5}, "seeds": [1000]},
        "random": {"setting": "failure", "scores": {"failure": 0.0}, "seeds": [1000]},
    }
    # Where there was nothing to choose from nothing is shown.
    assert settings_table(chosen).splitlines()[2:] == [
        "| tpe | failure: +0.50, **worst: -0.50** | 1 |"
    ]


def test_what_many_workers_lose_stands_beside_what_they_reach(toy_suite: None) -> None:
    serial = [_record("tpe", seed, [1.0 + seed] * 50) for seed in range(2)]
    parallel = [_record("tpe", seed, [1.25 + seed] * 50) for seed in range(2)]
    table = loss_table({"4": summary(parallel)}, {"4": parallel_loss(serial, parallel)})
    loss = "+0.2500 ± 0.0000"
    assert table.splitlines()[2] == (
        f"| 4 | tpe | 1.7500 | 1.7500 |  |  | {loss} | {loss} |  |  | 0 % |"
    )


def test_replayed_studies_stand_below_the_published_runs(toy_suite: None) -> None:
    runs = [[0.5, 0.4, 0.3, 0.2], [0.7, 0.6, 0.5, 0.4]]
    of_method = {"runs": runs, "crash share of the first 300": 0.125}
    published = {"Random": of_method, "TPE": of_method, "CMA-ES": of_method}
    records = [_record("tpe", seed, [0.55] * 25) for seed in range(2)]
    lines = published_table(summary(records), published).splitlines()
    assert lines[3] == (
        "| TPE, published (2 runs, lowest to highest) | 0.6000 (0.5000 – 0.7000) "
        "| 0.5000 (0.4000 – 0.6000) | 0.4000 (0.3000 – 0.5000) | 0.3000 (0.2000 – 0.4000) | 12 % |"
    )
    assert lines[4] == "| tpe, replay | 0.5500 ± 0.0000 |  |  |  | 0 % |"


def test_the_loss_of_parallel_work_is_paired_by_seed() -> None:
    serial = [_record("tpe", seed, [1.0 + seed] * 50) for seed in range(4)]
    parallel = [_record("tpe", seed, [1.25 + seed] * 50) for seed in range(1, 6)]
    assert parallel_loss(serial, parallel) == {"tpe": {"25": [0.25, 0.0], "50": [0.25, 0.0]}}
