"""The comparison on real trainings: its figures, from studies and reruns made up here, and how a
study goes on, with a line in place of a training.
"""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from benchmarks._records import append
from benchmarks.samplers import real
from benchmarks.samplers.real import _study
from benchmarks.samplers.real import draw
from benchmarks.samplers.real import export
from benchmarks.samplers.real import report
from benchmarks.samplers.rivals import Setting


def _made_up(folder: Path, sampler: str, seed: int, gain: float) -> None:
    study = _study(folder, sampler, seed)
    for value in (1.6, 8.0, 1.6 - gain, 1.7):  # the second crashed, the third is the best
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                constraints={"arrl:ran": 1.0 if value == 8.0 else -1.0},
                user_attrs={"arrl:outcome": "crash" if value == 8.0 else "complete"},
            )
        )
    for k in range(2):
        append(
            folder / "reruns.jsonl",
            {
                "study": study.study_name,
                "trial": 2,
                "measured": 1.6 - gain,
                "seed": 1001 + k,
                "baseline": 1.61,
                "best": 1.61 - gain + (0.001 if k else -0.001),
            },
        )


def test_studies_are_the_units_and_rivals_are_paired_by_seed(tmp_path: Path) -> None:
    for seed in range(5):
        _made_up(tmp_path, "arrl", seed, 0.03 + 0.001 * seed)
        _made_up(tmp_path, "tpe", seed, 0.02 - 0.001 * seed)
    result = report(tmp_path, ["arrl", "tpe"], range(5), reruns=2)
    assert result["arrl"]["best - baseline on fresh seeds, by study"] == pytest.approx(
        [-0.030, -0.031, -0.032, -0.033, -0.034]
    )
    assert result["arrl"]["crash share"] == 0.25
    # Two reruns .002 apart: a standard error of .001, and a quantile of Student's t of 12.706.
    assert result["arrl"]["95 % interval over reruns, half, by study"] == [0.01271] * 5
    # Five of five signs: one pattern in 2^5.
    assert result["tpe"]["p below the baseline"] == pytest.approx(1 / 32)
    assert result["p that the first is below the second"]["arrl"]["tpe"] == pytest.approx(1 / 32)
    assert result["p that the first is below the second"]["tpe"]["arrl"] == pytest.approx(1.0)


def test_a_single_study_has_the_interval_of_its_reruns_alone(tmp_path: Path) -> None:
    _made_up(tmp_path, "arrl", 0, 0.03)
    result = report(tmp_path, ["arrl"], range(1), reruns=2)
    assert result["arrl"]["95 % interval, half"] is None
    assert result["arrl"]["95 % interval over reruns, half, by study"] == [0.01271]


def test_a_study_that_goes_on_has_its_trials(tmp_path: Path) -> None:
    _made_up(tmp_path, "tpe", 0, 0.02)
    assert len(_study(tmp_path, "tpe", 0).trials) == 4


def test_every_trial_is_kept_without_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made_up(tmp_path, "tpe", 0, 0.02)
    _made_up(tmp_path, "tpe", 1, 0.03)
    export(tmp_path, ["tpe"], range(2))
    before = report(tmp_path, ["tpe"], range(2), reruns=2)
    for path in tmp_path.glob("*.db"):
        path.unlink()
    assert report(tmp_path, ["tpe"], range(2), reruns=2) == before
    # What is measured for such a study would be lost.
    monkeypatch.setattr(real, "_version", lambda _: "an older version")
    with pytest.raises(SystemExit, match="reported but not gone on with: name another folder"):
        real.run_study(tmp_path, "tpe", 0, trials=5)
    with pytest.raises(SystemExit, match="reported but not gone on with: name another folder"):
        real.rerun_best(tmp_path, "tpe", 0, 3, tmp_path / "reruns.jsonl")
    real.rerun_best(tmp_path, "tpe", 0, 2, tmp_path / "reruns.jsonl")  # nothing is missing
    (tmp_path / "trials.jsonl.gz").unlink()
    assert not _study(tmp_path, "tpe", 0).trials
    (tmp_path / "tpe-0.db").unlink()
    (tmp_path / "trials.jsonl.gz").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="not what this command writes: delete it"):
        _study(tmp_path, "tpe", 0)


def test_reruns_of_another_versions_study_do_not_count(tmp_path: Path) -> None:
    _made_up(tmp_path, "tpe", 0, 0.02)
    foreign = {"study": "tpe-0", "trial": 2, "measured": 1.5, "seed": 1003}
    append(tmp_path / "reruns.jsonl", foreign | {"baseline": 1.6, "best": 1.0})
    result = report(tmp_path, ["tpe"], range(1), reruns=3)
    assert result["tpe"]["best - baseline on fresh seeds, by study"] == [-0.02]


def test_figure_of_studies_of_unequal_length(tmp_path: Path) -> None:
    _made_up(tmp_path, "arrl", 0, 0.03)
    _made_up(tmp_path, "arrl", 1, 0.03)
    _study(tmp_path, "arrl", 1).add_trial(optuna.trial.create_trial(value=1.5))
    draw(tmp_path, ["arrl"], range(2))
    assert (tmp_path / "studies.png").read_bytes().startswith(b"\x89PNG")


class _Line:
    """An objective whose best edit is the lowest one; its third run is interrupted, once."""

    runs = 0
    closed = 0

    def __init__(self, profile: str) -> None:
        assert profile == "cpu"

    def enqueue_baseline(self, study: optuna.Study) -> None:
        if not study.trials:
            study.enqueue_trial({"lr": 0.5})

    def __call__(self, trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 0.0, 1.0)
        _Line.runs += 1
        if _Line.runs == 3:
            raise KeyboardInterrupt
        return 1.0 + lr

    def close(self) -> None:
        _Line.closed += 1


@pytest.mark.parametrize("sampler", ["arrl", "tpe", "cmaes-from-start"])
def test_an_interrupted_study_goes_on_where_it_was(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "TrainScriptObjective", _Line)
    monkeypatch.setattr(_Line, "runs", 0)
    monkeypatch.setattr(_Line, "closed", 0)
    with pytest.raises(KeyboardInterrupt):
        real.run_study(tmp_path, sampler, 0, trials=5)
    assert len(real._completed(_study(tmp_path, sampler, 0))) == 2
    real.run_study(tmp_path, sampler, 0, trials=5)
    edits = [trial.params["lr"] for trial in real._completed(_study(tmp_path, sampler, 0))]
    assert edits[0] == 0.5  # the baseline, once
    assert len(set(edits)) == 5  # none drawn again after the interruption
    assert (_Line.runs, _Line.closed) == (6, 2)

    real.run_study(tmp_path, sampler, 0, trials=5)  # nothing is missing
    assert _Line.runs == 6

    monkeypatch.setattr(real, "chosen_setting", lambda *_: Setting(sigma0=0.3))
    with pytest.raises(SystemExit, match=r"begun by .* not this version .*another folder"):
        real.run_study(tmp_path, sampler, 0, trials=6)
    assert _Line.runs == 6
