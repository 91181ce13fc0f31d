"""The commands that read a study: status, best, diff, dashboard."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import socket
import subprocess
from typing import Any

from cli_fakes import Arrl
from cli_fakes import FakeObjective
from cli_fakes import SOURCE
import optuna
import optuna_dashboard
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
import pytest

from optuna_arrl.figures import BEST_SO_FAR_ID
from optuna_arrl.trajectory import ARTIFACTS_KEY
from optuna_arrl.trajectory import MANIFEST_KEY
from optuna_arrl.trajectory import STOPPED_KEY


def test_status_shows_outcomes_scores_and_why_it_stopped(arrl: Arrl, study: optuna.Study) -> None:
    stopped = {"rule": "max_trials", "message": "Enough.", "figures": {}, "finished": 3}
    study.set_user_attr(STOPPED_KEY, stopped)
    result = arrl("status")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert lines["study"] == "arrl in sqlite:///arrl.db"
    assert lines["trials"] == "4 finished (2 complete, 1 crash, 1 pruned)"
    assert lines["baseline"] == "trial 0, val_bpb 2.0000"
    assert lines["best"] == "trial 1, val_bpb 1.9500, 0.0500 below the baseline"
    assert lines["noise"].startswith("0.001 ")
    assert lines["stopped"] == "by    max_trials: Enough. (1 more since)"


def test_status_of_study_without_trials(arrl: Arrl) -> None:
    optuna.create_study(storage="sqlite:///arrl.db", study_name="new")
    output = arrl("status").output
    assert "0 finished" in output
    assert "no score yet" in output
    assert "nothing so far" in output


def test_status_before_a_sampler_has_chosen(arrl: Arrl) -> None:
    study = optuna.create_study(storage="sqlite:///arrl.db", study_name="new")
    study.enqueue_trial({"x": 0.5})
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    assert "none yet" in arrl("status").output
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    assert "none: another sampler chose" in arrl("status").output


def test_status_of_a_study_that_edits_no_script(arrl: Arrl) -> None:
    study = optuna.create_study(storage="sqlite:///arrl.db", study_name="plain")
    study.add_trial(optuna.trial.create_trial(value=0.43))
    output = arrl("status").output
    assert "trial 0, value 0.4300 (no baseline)" in output
    assert "val_bpb" not in output


@pytest.mark.parametrize("command", ["status", "best"])
def test_study_of_several_objectives_is_one_sentence(arrl: Arrl, command: str) -> None:
    optuna.create_study(
        storage="sqlite:///arrl.db", study_name="two", directions=["minimize", "minimize"]
    )
    result = arrl(command)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("Error: Study 'two' has 2 objectives")


def test_status_hides_the_password_of_a_storage(arrl: Arrl) -> None:
    result = arrl("status", "--storage", "postgresql://me:secret@nowhere.invalid/db")
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_best_writes_the_script_of_the_best_trial(
    arrl: Arrl, study: optuna.Study, folder: Path
) -> None:
    expected = SOURCE.replace("LR = 0.1", "LR = 0.5").replace("DEPTH = 3", "DEPTH = 4")
    assert arrl("best").stdout == expected
    result = arrl("best", "-o", "best.py")
    assert result.exit_code == 0
    assert (folder / "best.py").read_text() == expected
    assert "trial 1, val_bpb 1.9500, 0.0500 below the baseline" in result.stderr


def test_best_diff_is_taken_by_git_apply(arrl: Arrl, study: optuna.Study, folder: Path) -> None:
    (folder / "train.py").write_text(SOURCE)
    diff = arrl("best", "--diff").stdout_bytes
    subprocess.run(["git", "apply", "-"], input=diff, check=True, cwd=folder)
    assert (folder / "train.py").read_text() == arrl("best").stdout


def test_diff_shows_one_trial(arrl: Arrl, study: optuna.Study) -> None:
    diff = arrl("diff", 2).stdout
    assert "-LR = 0.1  # arrl: log 1e-3 1\n" in diff
    assert "+LR = 1.0  # arrl: log 1e-3 1\n" in diff


def test_diff_of_the_baseline_is_empty(arrl: Arrl, study: optuna.Study) -> None:
    result = arrl("diff", 0)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "No difference: this is the unmodified script.\n"


def test_script_is_made_again_where_artifacts_are_lost(
    arrl: Arrl, study: optuna.Study, fake: FakeObjective, folder: Path
) -> None:
    import hashlib

    script, diff = arrl("best").stdout, arrl("diff", 1).stdout
    shutil.rmtree(folder / "arrl-artifacts")
    manifest = {**fake.manifest, "target": hashlib.sha256(SOURCE.encode()).hexdigest()}
    study._storage.set_study_system_attr(study._study_id, MANIFEST_KEY, manifest)

    result = arrl("best")
    assert result.exit_code == 2
    assert "name the script that the study edits with --target" in result.output

    (folder / "mine.py").write_text(SOURCE)
    assert arrl("best", "--target", "mine.py").stdout == script
    again = arrl("diff", 1, "--target", "mine.py").stdout
    assert again == diff.replace("train.py", "mine.py")

    (folder / "mine.py").write_text(SOURCE + "\n")  # no longer the script of the study
    assert arrl("best", "--target", "mine.py").exit_code == 2


def test_dashboard_serves_the_study_with_its_artifacts(
    arrl: Arrl, study: optuna.Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[str, Any] = {}

    def run_server(storage: Any, **options: Any) -> None:
        served.update(options, studies=[s.study_name for s in storage.get_all_studies()])

    monkeypatch.setattr(optuna_dashboard, "run_server", run_server)
    result = arrl("dashboard", "--port", 9123)
    assert result.exit_code == 0
    assert "http://127.0.0.1:9123/dashboard/studies/" in result.output
    store = served.pop("artifact_store")
    assert served == {"host": "127.0.0.1", "port": 9123, "studies": ["arrl"]}
    assert Path(store._base_path).samefile(folder / "arrl-artifacts")


@pytest.mark.parametrize("lost", [False, True])
def test_dashboard_serves_a_study_without_artifacts(
    arrl: Arrl, folder: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    plain = optuna.create_study(storage="sqlite:///arrl.db", study_name="plain")
    plain.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    if lost:
        plain._storage.set_study_system_attr(plain._study_id, ARTIFACTS_KEY, "/no/such/folder")
    served: list[Any] = []

    def run_server(storage: Any, *, artifact_store: Any, **_: Any) -> None:
        served.append(artifact_store)

    monkeypatch.setattr(optuna_dashboard, "run_server", run_server)
    result = arrl("dashboard")
    assert result.exit_code == 0, result.output
    assert served == [None]
    assert ("/no/such/folder, which is not on this machine" in result.stderr) == lost
    assert "Shown without artifacts." in result.stderr


def test_script_that_is_not_there_is_told_by_its_reason(arrl: Arrl, fake: FakeObjective) -> None:
    study = optuna.create_study(storage="sqlite:///arrl.db", study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    for command in (("best",), ("best", "--diff"), ("diff", 0)):
        result = arrl(*command)
        assert result.exit_code == 2
        assert "Study 'plain' edits no script" in result.output

    study.ask()
    result = arrl("diff", 1)
    assert result.exit_code == 2
    assert "Trial 1 of study 'plain' has not ended yet" in result.output

    fake.enqueue_baseline(study)
    study.tell(1, state=optuna.trial.TrialState.FAIL)
    result = arrl("diff", 1)
    assert result.exit_code == 2
    assert "Trial 1 of study 'plain' was lost before its end" in result.output


def test_dashboard_brings_the_figures_up_to_date(
    arrl: Arrl, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []

    def run_server(storage: Any, **_: Any) -> None:
        served.extend(get_plotly_graph_objects(storage.get_study_system_attrs(study._study_id)))

    monkeypatch.setattr(optuna_dashboard, "run_server", run_server)
    assert arrl("dashboard").exit_code == 0
    assert served == [BEST_SO_FAR_ID]  # two scores and no policy: of the others there is nothing


def test_dashboard_on_a_port_that_is_taken(arrl: Arrl, study: optuna.Study) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = arrl("dashboard", "--port", port)
    assert result.exit_code == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in result.output


@pytest.mark.parametrize("command", [("status",), ("best",), ("diff", 0), ("dashboard",)])
def test_command_that_reads_makes_no_storage(
    arrl: Arrl, folder: Path, command: tuple[Any, ...]
) -> None:
    result = arrl(*command)
    assert result.exit_code == 2
    assert "arrl run" in result.output
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("status", "--study", "nope"), "has no study 'nope', only: arrl."),
        (("status", "--storage", "sqlite:///two.db"), "choose one with --study (a, b)"),
        (("status", "--storage", "sqlite:///none.db"), "holds no study yet"),
        (("best", "--storage", "sqlite:///two.db", "--study", "a"), "no completed trial yet"),
        (("best", "-o", "no/such/folder/train.py"), "Cannot write no/such/folder/train.py"),
        (("best", "-o", "."), "Cannot write ."),
        (("diff", 99), "has no trial 99, only 0 to 3."),
        (("diff", -1), "No such option"),
        (("diff", "one"), "'one' is not a valid integer"),
        (("diff", 0, "--storage", "sqlite:///two.db", "--study", "a"), "and no other yet"),
        (("dashboard", "--port", 0), "0 is not in the range"),
    ],
)
def test_bad_input_to_a_reader_is_one_sentence(
    arrl: Arrl, study: optuna.Study, args: tuple[Any, ...], complaint: str
) -> None:
    for name in ("a", "b"):
        optuna.create_study(storage="sqlite:///two.db", study_name=name)
    optuna.storages.RDBStorage("sqlite:///none.db")
    result = arrl(*args)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert errors == [result.output.splitlines()[-1]]
    assert complaint in errors[0]
    assert "Traceback" not in result.output
