from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
import re
from typing import Any

from cli_fakes import Arrl
from cli_fakes import FakeObjective
from cli_fakes import SOURCE
import optuna
from optuna.trial import create_trial
from optuna.trial import TrialState
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
import pytest

from optuna_arrl.cli._study import open_storage
from optuna_arrl.cli._study import study_names
from optuna_arrl.figures import BEST_SO_FAR_ID
from optuna_arrl.figures import POLICY_ID
from optuna_arrl.frozen_env.corpus import CorpusError
from optuna_arrl.frozen_env.prepare import FrozenSetChanged
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.sandbox import SandboxUnavailable
from optuna_arrl.script import Script
from optuna_arrl.trajectory import BASELINE_KEY
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import STOPPED_KEY


RUN = ("run", "--sampler", "random", "--seed", 1)


def _study(name: str = "arrl") -> optuna.Study:
    return optuna.load_study(storage="sqlite:///arrl.db", study_name=name)


def test_trials_adds_that_many(arrl: Arrl, fake: FakeObjective) -> None:
    assert arrl(*RUN, "--trials", 3).exit_code == 0
    assert len(_study().trials) == 3
    assert arrl(*RUN, "--trials", 2).exit_code == 0
    assert len(_study().trials) == 5


def test_until_adds_what_is_missing(arrl: Arrl, fake: FakeObjective) -> None:
    assert arrl(*RUN, "--trials", 2).exit_code == 0
    assert arrl(*RUN, "--until", 4).exit_code == 0
    assert len(_study().trials) == 4
    result = arrl(*RUN, "--until", 4)
    assert result.exit_code == 0
    assert "Finished trials reached the limit of 4." in result.output
    assert len(_study().trials) == 4
    assert _study().user_attrs[STOPPED_KEY]["rule"] == "max_trials"


def test_until_does_not_count_what_the_machine_failed(arrl: Arrl, fake: FakeObjective) -> None:
    fake.events = [Outcome.COMPLETE, None, Outcome.CRASH, Outcome.PRUNED]
    assert arrl(*RUN, "--until", 3).exit_code == 0
    states = [trial.state for trial in _study().trials]
    assert states == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.PRUNED,
    ]


def test_first_trial_is_the_baseline_and_runs_once(arrl: Arrl, fake: FakeObjective) -> None:
    arrl(*RUN, "--trials", 1)
    arrl(*RUN, "--trials", 1)
    baselines = [bool(t.system_attrs.get(BASELINE_KEY)) for t in _study().trials]
    assert baselines == [True, False]
    assert _study().trials[0].params == {"LR": 0.1, "DEPTH": 3}


def test_every_name_that_slots_lists_can_be_activated(arrl: Arrl, folder: Path) -> None:
    (folder / "mine.py").write_text(
        f"{SOURCE}\n\ndef rest(x=0.5, *, name='a'):\n    return x * 3\n"
    )
    listed = arrl("slots", "mine.py").stdout.splitlines()
    assert listed[:2] == ["* LR = 0.1  (line 1)", "* DEPTH = 3  (line 2)"]
    names = [line[2:].split(" = ")[0] for line in listed]
    assert {line[0] for line in listed[2:]} == {" "}
    assert set(Script((folder / "mine.py").read_text(), activate=names).active) == set(names)

    result = arrl("run", "mine.py", "--profile", "cpu", "--activate", "FOO")
    assert f"'FOO' is none of the {len(names)} slots of this script" in result.output
    assert "`arrl slots` lists" in result.output


def test_oracle_is_asked_before_the_first_trial(arrl: Arrl, fake: FakeObjective) -> None:
    study = optuna.create_study(storage="sqlite:///arrl.db", study_name="arrl")
    study.add_trials([create_trial(value=1.0) for _ in range(31)])
    result = arrl(*RUN)
    assert result.exit_code == 0
    assert "no gain beyond noise" in result.output
    assert len(_study().trials) == 31


def test_another_script_gets_a_study_of_its_own(
    arrl: Arrl, fake: FakeObjective, folder: Path
) -> None:
    first = optuna.create_study(storage="sqlite:///arrl.db", study_name="first")
    first._storage.set_study_system_attr(first._study_id, MANIFEST_KEY, {"target": "0" * 64})
    (folder / "mine.py").write_text(SOURCE)
    assert arrl("run", "mine.py", "--sampler", "random", "--trials", 1).exit_code == 0
    names = optuna.get_all_study_names("sqlite:///arrl.db")
    assert sorted(names) == ["first", "mine"]


def test_run_whose_every_trial_is_lost_says_so(arrl: Arrl, fake: FakeObjective) -> None:
    fake.events = [None]
    result = arrl(*RUN, "--trials", 1)
    assert result.exit_code == 1
    assert "The machine failed every trial" in result.output


def test_trials_sets_the_oracle_aside(arrl: Arrl, fake: FakeObjective) -> None:
    study = optuna.create_study(storage="sqlite:///arrl.db", study_name="arrl")
    study.add_trials([create_trial(value=1.0) for _ in range(31)])
    assert arrl(*RUN, "--trials", 2).exit_code == 0
    assert len(_study().trials) == 33


def test_run_without_limit_goes_on_until_converged(arrl: Arrl, fake: FakeObjective) -> None:
    fake.events = [Outcome.COMPLETE] + [Outcome.CRASH] * 40
    assert arrl(*RUN).exit_code == 0
    assert len(_study().trials) == 31  # the baseline, and a window of 30 without gain
    assert _study().user_attrs[STOPPED_KEY]["rule"] == "convergence"


def test_each_trial_is_a_plain_line_off_a_terminal(arrl: Arrl, fake: FakeObjective) -> None:
    fake.events = [Outcome.COMPLETE, Outcome.CRASH]
    lines = arrl(*RUN, "--trials", 2).output.splitlines()
    assert re.fullmatch(
        r"\[1/2\]  trial 0  complete  val_bpb 2\.0000  best 2\.0000 \(trial 0\)  \d+ s left",
        lines[0],
    )
    assert lines[1] == "[2/2]  trial 1  crash  best 2.0000 (trial 0)"
    assert lines[2] == "  trial 1: it ran out of luck"


def test_summary_shows_table_diff_and_what_to_do_next(arrl: Arrl, fake: FakeObjective) -> None:
    study = optuna.create_study(storage="sqlite:///arrl.db", study_name="arrl")
    fake.enqueue_baseline(study)
    study.enqueue_trial({"LR": 1.0, "DEPTH": 3})
    output = arrl(*RUN, "--trials", 2).output
    # By hand: 2 - 0.1 × (1 - 0.1) = 1.91, which is 0.09 below the baseline's 2.
    (row,) = [line for line in output.splitlines() if "LR 0.1 → 1" in line]
    cells = row.split(maxsplit=6)
    assert cells[:5] == ["1", "1", "1.9100", "-0.0900", "complete"]
    assert cells[6].strip() == "LR 0.1 → 1"
    assert "Best: trial 1, val_bpb 1.9100, 0.0900 below the baseline" in output
    assert "-LR = 0.1  # arrl: log 1e-3 1\n+LR = 1.0  # arrl: log 1e-3 1\n" in output
    assert "  arrl dashboard" in output
    assert "  arrl best -o best.py" in output
    assert "\x1b" not in output  # no colours off a terminal


def test_next_commands_name_storage_and_study_where_needed(
    arrl: Arrl, fake: FakeObjective
) -> None:
    url = "sqlite:///other.db"
    optuna.create_study(storage=url, study_name="first")
    output = arrl(*RUN, "--trials", 1, "--storage", url, "--study", "second").output
    assert f"arrl dashboard --storage {url} --study second" in output


def test_journal_file_is_a_storage(arrl: Arrl, fake: FakeObjective) -> None:
    assert arrl(*RUN, "--trials", 2, "--storage", "study.log").exit_code == 0
    assert "2 finished" in arrl("status", "--storage", "study.log").output


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_database_in_memory_is_no_storage(arrl: Arrl, fake: FakeObjective, url: str) -> None:
    result = arrl(*RUN, "--trials", 1, "--storage", url)
    assert result.exit_code == 2
    assert "name a file, as in sqlite:///arrl.db" in result.output


def test_new_study_is_named_after_its_target(
    arrl: Arrl, fake: FakeObjective, folder: Path
) -> None:
    (folder / "gpt.py").write_text("")
    arrl("run", "gpt.py", *RUN[1:], "--trials", 1)
    assert optuna.get_all_study_names("sqlite:///arrl.db") == ["gpt"]
    assert fake.target == Path("gpt.py")


def test_only_study_of_a_storage_goes_on(arrl: Arrl, fake: FakeObjective) -> None:
    arrl(*RUN, "--trials", 1, "--study", "mine")
    arrl(*RUN, "--trials", 1)
    assert optuna.get_all_study_names("sqlite:///arrl.db") == ["mine"]
    assert len(_study("mine").trials) == 2


def test_seed_gives_the_same_edits(arrl: Arrl, fake: FakeObjective) -> None:
    for name in ("a", "b"):
        arrl(*RUN, "--trials", 3, "--study", name)
    assert [t.params for t in _study("a").trials] == [t.params for t in _study("b").trials]


def test_seeded_rival_that_goes_on_does_not_repeat_its_edits(
    arrl: Arrl, fake: FakeObjective
) -> None:
    for _ in range(3):
        assert arrl(*RUN, "--trials", 2).exit_code == 0
    assert len({trial.params["LR"] for trial in _study().trials}) == 6


@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp", "random"])
def test_rival_samplers_drive_the_same_objective(
    arrl: Arrl, fake: FakeObjective, name: str
) -> None:
    result = arrl("run", "--sampler", name, "--seed", 0, "--trials", 3)
    assert result.exit_code == 0, result.output
    assert len(_study().trials) == 3


def test_policy_goes_on_with_each_run_and_learns_from_its_rest(
    arrl: Arrl, fake: FakeObjective
) -> None:
    versions = []
    for _ in range(2):
        assert arrl("run", "--seed", 0, "--trials", 3).exit_code == 0
        versions.append(re.search(r"policy +version (\d+)", arrl("status").output))
    assert [int(v[1]) for v in versions if v is not None] == [1, 2]


def test_run_leaves_figures_that_hold_its_last_trial(arrl: Arrl, fake: FakeObjective) -> None:
    assert arrl("run", "--seed", 0, "--trials", 3).exit_code == 0
    attrs = _study()._storage.get_study_system_attrs(_study()._study_id)
    drawn = get_plotly_graph_objects(attrs)
    assert drawn.keys() == {BEST_SO_FAR_ID, POLICY_ID}
    (points,) = (
        t for t in json.loads(drawn[BEST_SO_FAR_ID])["data"] if t["name"] == "score of a trial"
    )
    assert points["x"] == [0, 1, 2]


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    arrl: Arrl, fake: FakeObjective
) -> None:
    fake.events = [Outcome.COMPLETE, Outcome.COMPLETE, KeyboardInterrupt()]
    result = arrl(*RUN, "--trials", 5)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert "Best trials" in result.output
    line = result.output.splitlines()[-1].strip()
    assert line == "arrl run --trials 3 --sampler random --seed 1"
    states = [trial.state for trial in _study().trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL]
    assert arrl(*line.split()[1:]).exit_code == 0
    assert sum(t.state == TrialState.COMPLETE for t in _study().trials) == 5


@pytest.mark.parametrize("as_callback", [True, False], ids=["within the run", "after it"])
def test_ctrl_c_after_the_last_trial_asks_for_no_more(
    arrl: Arrl, fake: FakeObjective, monkeypatch: pytest.MonkeyPatch, as_callback: bool
) -> None:
    def save_figures(study: optuna.Study, trial: Any = None) -> None:
        if (trial is not None) == as_callback:
            raise KeyboardInterrupt

    monkeypatch.setattr("optuna_arrl.figures.save_figures", save_figures)
    result = arrl(*RUN, "--trials", 1)
    assert result.exit_code == 130
    assert result.output.splitlines()[-1] == "Stopped after the last trial; nothing is lost."


def test_ctrl_c_does_not_print_a_password(
    arrl: Arrl, fake: FakeObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("optuna_arrl.cli.run")
    monkeypatch.setattr(module, "find_storage", lambda url: None)
    fake.unready = KeyboardInterrupt()
    result = arrl(*RUN, "--storage", "postgresql://me:secret@nowhere.invalid/db")
    assert result.exit_code == 130
    assert "--storage 'postgresql://me:***@nowhere.invalid/db'" in result.output
    assert "secret" not in result.output


def test_ctrl_c_before_the_first_score_is_clean_too(arrl: Arrl, fake: FakeObjective) -> None:
    fake.events = [KeyboardInterrupt()]
    result = arrl(*RUN, "--until", 5)
    assert result.exit_code == 130
    assert "has no completed trial yet" in result.output
    assert result.output.splitlines()[-1].strip() == (
        "arrl run --until 5 --sampler random --seed 1"
    )


def test_ctrl_c_during_set_up_is_clean_too(arrl: Arrl, fake: FakeObjective) -> None:
    fake.unready = KeyboardInterrupt()
    result = arrl(*RUN, "--until", 5)
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_machine_that_fails_ends_the_run_in_a_sentence(arrl: Arrl, fake: FakeObjective) -> None:
    error = RuntimeError("3 trials in a row failed for a reason that is not in their edits.")
    error.__cause__ = MachineFault("the disk is full")
    fake.events = [Outcome.COMPLETE, error]
    result = arrl(*RUN, "--trials", 5)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == f"Error: {error}"
    assert "Best trials" in result.output


@pytest.mark.parametrize("bug", [ZeroDivisionError("oops"), RuntimeError("oops")])
def test_bug_keeps_its_traceback(arrl: Arrl, fake: FakeObjective, bug: Exception) -> None:
    fake.events = [bug]
    assert arrl(*RUN, "--trials", 1).exception is bug


def test_study_made_under_other_conditions_is_refused(arrl: Arrl, fake: FakeObjective) -> None:
    assert arrl(*RUN, "--trials", 1).exit_code == 0
    fake.manifest = {"profile": {"repeat_noise": 1e-3}, "budget_seconds": 99.0}
    result = arrl(*RUN, "--trials", 1)
    assert result.exit_code == 2
    assert "budget_seconds: nothing → 99.0" in result.output
    assert "--study NAME" in result.output
    assert len(_study().trials) == 1


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["missing.py"], "does not exist"),
        (["."], "is a directory"),
        (["broken.py"], "is not a Python script"),
        (["empty.py"], "does not define build_model and train"),
        (["fixed.py"], "has nothing to search"),
        (["--activate", "NO_SUCH_NAME"], "NO_SUCH_NAME"),
        (["--trials", -1], "-1 is not in the range"),
        (["--trials", 0], "0 is not in the range"),
        (["--until", 0], "0 is not in the range"),
        (["--trials", 1, "--until", 1], "Give --trials or --until, not both."),
        (["--budget", 0], "0.0 is not in the range"),
        (["--budget", "inf"], "`budget_seconds` must be 1 or more"),
        (["--seed", -1], "-1 is not in the range"),
        (["--sampler", "magic"], "'magic' is not one of"),
        (["--profile", "tpu"], "'tpu' is not one of"),
        (["--storage", "study.db"], "write sqlite:///study.db"),
        (["--storage", ""], "--storage is empty"),
        (["--study", " "], "--study is empty"),
        (["--storage", "nosuch://x"], "cannot be opened"),
        (["--storage", "redis://x"], "cannot be opened"),
        (["--storage", "sqlite:///no/such/folder/x.db"], "is not a folder"),
        (["--storage", "sqlite:///broken.db"], "cannot be opened"),
        (["--storage", "broken.log"], "cannot be opened"),
        (["--corpus", "nowhere"], "is not a folder"),
        (["--corpus", "empty"], "txt"),
        (["--study", "maximised", "--storage", "sqlite:///max.db"], "does not minimise"),
    ],
)
def test_bad_input_is_one_sentence(
    arrl: Arrl, folder: Path, args: list[Any], complaint: str
) -> None:
    (folder / "broken.py").write_text("def build_model(:\n")
    (folder / "empty.py").write_text("LR = 0.1\n")
    (folder / "fixed.py").write_text("def build_model(): ...\ndef train(model): ...\n")
    (folder / "broken.db").write_text("this is no database, whatever its name says" * 100)
    (folder / "broken.log").write_text("this is no journal\n")
    (folder / "empty").mkdir()
    optuna.create_study(storage="sqlite:///max.db", study_name="maximised", direction="maximize")
    result = arrl(
        *RUN, *([] if "--trials" in args or "--until" in args else ["--trials", 1]), *args
    )
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert errors == [result.output.splitlines()[-1]]
    assert complaint in errors[0]


@pytest.mark.parametrize(("sampler", "package"), [("cmaes", "cmaes"), ("gp", "scipy")])
def test_missing_package_of_a_sampler_is_named_with_its_pip_line(
    arrl: Arrl, monkeypatch: pytest.MonkeyPatch, sampler: str, package: str
) -> None:
    module = importlib.import_module("optuna_arrl.cli.run")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    result = arrl("run", "--sampler", sampler)
    assert result.exit_code == 2
    assert f"pip install {package}" in result.output


@pytest.mark.parametrize("args", [("broken.py",), ("--corpus", "nowhere"), ("--activate", "X")])
def test_refused_input_leaves_no_storage(arrl: Arrl, folder: Path, args: tuple[str, ...]) -> None:
    (folder / "broken.py").write_text("def build_model(:\n")
    assert arrl("run", *args, "--profile", "cpu", "--trials", 1).exit_code == 2
    assert os.listdir(folder) == ["broken.py"]


@pytest.mark.parametrize(
    ("unready", "code", "sentence"),
    [
        (CorpusError("The corpus is too small."), 2, "The corpus is too small."),
        (SandboxUnavailable("No sandbox holds."), 2, "No sandbox holds."),
        (FrozenSetChanged("X is damaged."), 2, "X is damaged."),
        (
            MachineFault("its speed is unknown"),
            1,
            "The machine failed before the first trial: its speed is unknown.",
        ),
    ],
)
@pytest.mark.parametrize("url", ["sqlite:///arrl.db", "arrl.log"])
def test_machine_that_is_not_ready_is_one_sentence_and_leaves_no_study(
    arrl: Arrl,
    fake: FakeObjective,
    folder: Path,
    unready: Exception,
    code: int,
    sentence: str,
    url: str,
) -> None:
    fake.unready = unready
    result = arrl(*RUN, "--trials", 1, "--storage", url)
    assert result.exit_code == code
    assert result.output.splitlines() == [f"Error: {sentence}"]
    assert os.listdir(folder) == []

    optuna.create_study(storage=open_storage(url, create=True), study_name="other")
    assert arrl(*RUN, "--trials", 1, "--storage", url, "--study", "new").exit_code == code
    assert study_names(open_storage(url, create=False)) == ["other"]
