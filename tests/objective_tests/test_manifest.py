from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective.manifest import check_manifest
from optuna_arrl.objective.manifest import make_manifest
from optuna_arrl.objective.manifest import ManifestMismatch
from optuna_arrl.trajectory import MANIFEST_KEY


PREPARED = Prepared(
    Path("prepared"),
    PROFILES["cpu"],
    {"corpus": "tiny", "sha256": {"visible/train.bin": "a" * 64}, "train_bytes_per_token": 4.0},
)


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return make_manifest(PREPARED, "LR = 0.1\n")


def test_manifest_lists_everything_but_the_edit(manifest: dict[str, Any]) -> None:
    sources = manifest["sources"]
    assert {"frozen_env/evaluation.py", "_data/sotu.txt.xz"} <= sources.keys()
    measuring = ("runner", "scorer", "_supervisor", "_confine", "sandbox", "supply", "weights")
    assert {f"objective/{name}.py" for name in measuring} <= sources.keys()
    assert "objective/objective.py" not in sources
    assert manifest["corpus"] == {"visible/train.bin": "a" * 64}
    assert manifest["profile"]["budget_seconds"] == PROFILES["cpu"].budget_seconds
    assert manifest["profile"]["threads"] == PROFILES["cpu"].threads
    assert manifest["profile"]["memory_bytes"] == PROFILES["cpu"].memory_bytes
    assert manifest["device"]
    assert len(json.dumps(manifest)) < 60_000


def test_the_first_to_come_writes_and_an_equal_one_goes_on(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    assert not check_manifest(study, manifest)
    assert check_manifest(study, copy.deepcopy(manifest))
    assert study._storage.get_study_system_attrs(study._study_id)[MANIFEST_KEY] == manifest


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("sources", "frozen_env/evaluation.py"), "f" * 64, "sources.frozen_env/evaluation.py: "),
        (("corpus", "visible/train.bin"), "b" * 64, "visible/train.bin: aaaaaaaaaaaa → bbbbbbbb"),
        (("sources", "objective/scorer.py"), "f" * 64, "sources.objective/scorer.py: "),
        (("sources", "extra.py"), "f" * 64, "sources.extra.py: nothing → ffffffffffff"),
        (("target",), "f" * 64, "target: "),
        (("device",), "A faster one", "→ A faster one"),
        (("profile", "threads"), 1, "profile.threads: 2 → 1"),
        (("profile", "memory_bytes"), 7, "profile.memory_bytes: "),
        (("profile", "budget_seconds"), 30.0, "profile.budget_seconds: 12.0 → 30.0"),
    ],
)
def test_another_manifest_is_refused_in_a_sentence_that_names_the_field(
    manifest: dict[str, Any], path: tuple[str, ...], value: Any, named: str
) -> None:
    study = optuna.create_study(study_name="s")
    manifest = copy.deepcopy(manifest)
    manifest["profile"] |= {"threads": 2, "budget_seconds": 12.0}
    check_manifest(study, manifest)
    other = copy.deepcopy(manifest)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ManifestMismatch) as refusal:
        check_manifest(study, other)
    assert named in str(refusal.value)
    assert "Study 's'" in str(refusal.value)
    assert "--study NAME" in str(refusal.value)
    # And the study is as it was: the first one goes on.
    assert check_manifest(study, manifest)


def test_many_differences_are_counted_and_not_all_listed(manifest: dict[str, Any]) -> None:
    study = optuna.create_study()
    check_manifest(study, manifest)
    other = copy.deepcopy(manifest)
    other["sources"] = {f"{i}.py": "f" * 64 for i in range(40)}
    with pytest.raises(ManifestMismatch, match=r"; and [0-9]+ more") as refusal:
        check_manifest(study, other)
    assert len(str(refusal.value)) < 600


def test_versions_are_noted_and_not_compared(manifest: dict[str, Any]) -> None:
    study = optuna.create_study()
    check_manifest(study, manifest)
    assert check_manifest(study, {**manifest, "noted": {"python": "2.7"}})


def test_of_two_that_start_together_the_loser_is_refused_at_its_next_check(
    manifest: dict[str, Any],
) -> None:
    study = optuna.create_study()
    other = {**manifest, "device": "Another"}
    check_manifest(study, manifest)  # found none, as the other did at the same moment
    study._storage.set_study_system_attr(study._study_id, MANIFEST_KEY, other)
    assert check_manifest(study, other)
    with pytest.raises(ManifestMismatch, match="device"):
        check_manifest(study, manifest)
