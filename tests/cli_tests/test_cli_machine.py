"""The commands about the machine: prepare and doctor; and the group itself."""

from __future__ import annotations

import os
from pathlib import Path
import random
import subprocess
import sys

from cli_fakes import Arrl
import optuna
import psutil
import pytest

from optuna_arrl.frozen_env import prepare as frozen
from optuna_arrl.frozen_env.corpus import folder_corpus


@pytest.fixture
def texts(folder: Path) -> Path:
    """A corpus of 32 different texts, large enough for the cpu profile's tokenizer."""
    texts = folder / "texts"
    texts.mkdir()
    letters = random.Random(0)
    for number in range(32):
        words = ("".join(letters.choices("abcdefghij", k=5)) for _ in range(500))
        (texts / f"{number:02}.txt").write_text(" ".join(words))
    return texts


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def test_prepare_says_what_it_made_and_makes_it_once(
    arrl: Arrl, texts: Path, folder: Path
) -> None:
    first = arrl("prepare", "--profile", "cpu", "--corpus", texts)
    assert first.exit_code == 0, first.output
    (made,) = (folder / "cache" / "optuna-arrl").iterdir()
    assert str(made) in first.output
    stamp = (made / "manifest.json").stat().st_mtime_ns
    second = arrl("prepare", "--profile", "cpu", "--corpus", texts)
    assert second.output == first.output
    assert (made / "manifest.json").stat().st_mtime_ns == stamp


def test_files_that_cannot_be_prepared_are_one_sentence(
    arrl: Arrl, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_load", lambda root, profile, corpus: None)
    result = arrl("prepare", "--profile", "cpu", "--corpus", texts)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.endswith("could not be prepared: delete it and try again.")


@pytest.mark.parametrize("make", [None, "file", "empty", "binary"])
def test_unusable_corpus_is_one_sentence(arrl: Arrl, folder: Path, make: str | None) -> None:
    corpus = folder / "corpus"
    if make == "file":
        corpus.write_text("text")
    elif make is not None:
        corpus.mkdir()
    if make == "binary":
        for number in range(32):
            (corpus / f"{number}.txt").write_bytes(b"\xff\xfe\x00\xd8" * 10)
    result = arrl("prepare", "--profile", "cpu", "--corpus", corpus)
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")


@pytest.mark.parametrize("cache", ["/proc/nowhere", "file"])
def test_cache_that_cannot_be_written_is_one_sentence(
    arrl: Arrl, folder: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / cache))
    result = arrl("prepare", "--profile", "cpu")
    assert result.exit_code == 2, result.output
    assert "set XDG_CACHE_HOME to a folder of yours" in result.output
    assert "✗ corpus" in arrl("doctor").output


def test_doctor_lists_what_the_machine_can_do(arrl: Arrl) -> None:
    result = arrl("doctor")
    lines = [line for line in result.output.splitlines() if line[:1] in "✓✗"]
    assert [line.split()[1] for line in lines] == [
        "device",
        "cores",
        "memory",
        "box",
        "corpus",
        "storage",
        "disk",
    ]
    assert result.exit_code == (0 if all(line.startswith("✓") for line in lines) else 1)
    assert "sqlite:///arrl.db is not there yet" in result.output
    assert "not prepared yet" in result.output


def test_doctor_finds_study_and_corpus(
    arrl: Arrl, texts: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna.create_study(storage="sqlite:///arrl.db", study_name="mine")
    monkeypatch.setattr(frozen, "embedded_corpus", lambda: folder_corpus(texts))
    arrl("prepare")
    (made,) = (folder / "cache" / "optuna-arrl").iterdir()
    result = arrl("doctor")
    assert "sqlite:///arrl.db, studies: 1" in result.output
    assert f"corpus    prepared in {made}" in result.output

    (made / "private" / "val.bin").write_bytes(b"damaged")
    assert "not prepared yet" in arrl("doctor").output
    arrl("prepare")
    (texts / "00.txt").write_text("another text")  # what is prepared is of another corpus now
    assert "not prepared yet" in arrl("doctor").output


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_refused_in_a_sentence(
    arrl: Arrl, folder: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    result = arrl("run", "--sandbox", "none")
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("Error: Edited scripts run in a box that only Linux has")
    result = arrl("doctor")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("✗ system    Edited scripts run in a box that only Linux has")
    assert os.listdir(folder) == []


def test_objective_is_refused_in_a_sentence_where_modules_of_unix_are_missing() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('fcntl', 'resource', 'pwd', 'termios')); "
        "from optuna_arrl import TrainScriptObjective; sys.platform = 'win32'; "
        "TrainScriptObjective()"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].endswith("on Windows, WSL 2.")


def test_doctor_says_what_is_wrong_and_exits_with_1(
    arrl: Arrl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    (folder / "broken.db").write_text("no database" * 1000)
    result = arrl("doctor", "--storage", "sqlite:///broken.db")
    assert result.exit_code == 1
    assert "✗ memory    0.0 GiB free" in result.output
    assert "✗ storage" in result.output
    assert "--storage URL" in result.output


@pytest.mark.parametrize(
    "command", ["run", "status", "best", "diff", "dashboard", "slots", "prepare", "doctor"]
)
def test_help_teaches(arrl: Arrl, command: str) -> None:
    assert command in arrl("--help").output
    result = arrl(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: arrl {command}")
    assert f"arrl {command}" in result.output.split("Options:")[1] or command == "doctor"


def test_version(arrl: Arrl) -> None:
    from optuna_arrl._version import __version__

    assert __version__ in arrl("--version").output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from optuna_arrl.cli import main; main(['--help'], standalone_mode=False); "
        "heavy = {'torch', 'pandas', 'rich', 'sqlalchemy', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    root = Path(__file__).parents[2]  # where the package is, installed or not
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=root)
