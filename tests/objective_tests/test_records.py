from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
import pytest

from optuna_arrl.objective import records
from optuna_arrl.trajectory import ARTIFACTS_KEY
from optuna_arrl.trajectory import Outcome


NOTE: dict[str, Any] = {
    "val_bpb": 2.0,
    "reason": "",
    "baseline": None,
    "best": None,
    "reused_from": None,
    "changes": [],
    "diff": "",
}


def test_note_compares_the_score_with_baseline_and_best() -> None:
    text = records.note(Outcome.COMPLETE, **{**NOTE, "baseline": 2.5, "best": 1.75})
    assert "**complete**" in text
    assert "val_bpb 2.0000" in text
    assert "-0.5000 against the baseline" in text
    assert "+0.2500 against the best before" in text


def test_note_lists_changed_slots_and_shows_a_short_diff_whole() -> None:
    diff = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-LR = 0.1\n+LR = 0.2\n"
    text = records.note(Outcome.COMPLETE, **{**NOTE, "changes": [("LR", 0.1, 0.2)], "diff": diff})
    assert "| LR | 0.1 | 0.2 |" in text
    assert text.endswith(f"```diff\n{diff}```")


def test_note_cuts_a_long_diff_between_lines_and_says_where_the_whole_one_is() -> None:
    diff = "".join(f"+line {i} of a long diff\n" for i in range(500))
    text = records.note(Outcome.COMPLETE, **{**NOTE, "diff": diff})
    fence, _, rest = text.partition("```diff\n")[2].partition("\n```")
    assert diff.startswith(fence + "\n")
    assert len(fence) > 1000
    assert "train.diff" in rest


def test_note_of_a_diff_with_a_fence_in_it_is_not_broken() -> None:
    diff = '+"""\n+```\n+example\n+```\n+"""\n'
    text = records.note(Outcome.COMPLETE, **{**NOTE, "diff": diff})
    assert text.endswith(f"````diff\n{diff}````")


texts = st.text(max_size=3000)


@given(
    reason=texts,
    changes=st.lists(st.tuples(texts, texts, st.floats() | texts), max_size=60),
    diff=texts,
)
def test_note_never_exceeds_2_kb(
    reason: str, changes: list[tuple[str, Any, Any]], diff: str
) -> None:
    text = records.note(
        Outcome.CRASH, **{**NOTE, "reason": reason, "changes": changes, "diff": diff}
    )
    assert len(text.encode()) <= 2000
    assert ("```diff\n" in text) == bool(diff)


def test_artifacts_lie_beside_an_sqlite_file(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    assert records.artifact_folder(study) == tmp_path / "study-artifacts"


def test_artifacts_lie_beside_a_journal_file(tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    )
    assert records.artifact_folder(study) == tmp_path / "study-artifacts"


@pytest.mark.parametrize("storage", [None, "sqlite:///:memory:"])
def test_artifacts_of_a_study_in_memory_lie_in_the_cache_folder(
    storage: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study = optuna.create_study(storage=storage)
    assert records.artifact_folder(study).is_relative_to(tmp_path)


def save(study: optuna.Study, store: Any, contents: dict[str, bytes]) -> optuna.trial.FrozenTrial:
    trial = study.ask()
    records.save_artifacts(trial, store, contents)
    study.tell(trial, 1.0)
    return study.trials[trial.number]


def test_a_chosen_store_is_found_again_from_storage_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, study_name="s")
    chosen = FileSystemArtifactStore(tmp_path / "elsewhere")
    store = records.open_artifact_store(study, chosen)
    save(study, store, {"train.py": b"x = 1\r\n"})
    loaded = optuna.load_study(storage=url, study_name="s")
    assert records.load_source(loaded, loaded.trials[0]) == "x = 1\r\n"
    assert (tmp_path / "elsewhere").is_dir()


def test_artifacts_are_found_when_database_and_folder_moved_together(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    study = optuna.create_study(storage=f"sqlite:///{old}/study.db", study_name="s")
    save(study, records.open_artifact_store(study, None), {"train.py": b"x = 1\n"})
    shutil.move(old, new)
    loaded = optuna.load_study(storage=f"sqlite:///{new}/study.db", study_name="s")
    assert records.load_source(loaded, loaded.trials[0]) == "x = 1\n"


def test_missing_artifacts_are_told_in_a_sentence(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="s")
    with pytest.raises(LookupError, match="Study 's' has recorded no folder of artifacts"):
        records.artifact_store_of(study)
    trial = save(study, records.open_artifact_store(study, None), {"train.log": b""})
    with pytest.raises(LookupError, match=r"Trial 0 of study 's' left no train\.py\."):
        records.load_source(study, trial)
    shutil.rmtree(tmp_path / "study-artifacts")
    with pytest.raises(LookupError, match="study-artifacts, which is not on this machine"):
        records.load_source(study, trial)


def test_an_artifact_whose_bytes_were_never_written_is_missing(tmp_path: Path) -> None:
    class FullDisk(FileSystemArtifactStore):
        def write(self, artifact_id: str, content_body: Any) -> None:
            raise OSError("No space left on device")

    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    records.open_artifact_store(study, None)
    with pytest.raises(OSError):
        save(study, FullDisk(tmp_path), {"train.py": b"x = 1\n"})
    with pytest.raises(LookupError):
        records.load_source(study, study.trials[0])


def test_the_address_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage="sqlite:///study.db")
    records.open_artifact_store(study, None)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    assert attrs[ARTIFACTS_KEY] == str(tmp_path / "study-artifacts")


def test_the_folder_of_another_machine_stays_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study = optuna.create_study()
    study._storage.set_study_system_attr(study._study_id, ARTIFACTS_KEY, "/not/on/this/machine")
    trial = save(study, records.open_artifact_store(study, None), {"train.py": b"x = 1\n"})
    attrs = study._storage.get_study_system_attrs(study._study_id)
    assert attrs[ARTIFACTS_KEY] == "/not/on/this/machine"
    assert records.load_source(study, trial) == "x = 1\n"


def test_diffs_name_a_script_from_the_top_of_its_repository(tmp_path: Path) -> None:
    target = tmp_path / "experiment" / "train.py"
    target.parent.mkdir()
    target.write_text("DEPTH = 2\n")
    assert records.diff_path(target) == "train.py"
    (tmp_path / ".git").mkdir()
    assert records.diff_path(target) == "experiment/train.py"
