"""What a user gets: `import optuna_arrl`, the wheel, the pins and the words of `make setup`."""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

import optuna_arrl


_ROOT = Path(__file__).parents[1]
_SOURCES = ("optuna_arrl", "frozen_env", "target")
_FILES = ("pyproject.toml", "README.md", "LICENSE")
_BUILD = "from setuptools import build_meta; import sys; build_meta.{}(sys.argv[1])"


def _run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def _modules_after(statement: str, cwd: Path) -> set[str]:
    code = f"{statement}; import json, sys; print(json.dumps(list(sys.modules)))"
    return set(json.loads(_run(sys.executable, "-c", code, cwd=cwd).stdout))


def test_import_loads_nothing_that_optuna_does_not_load(tmp_path: Path) -> None:
    # The promise is that `import optuna_arrl` costs at most 1.3 times `import optuna`. Modules
    # can be counted the same on every machine; seconds cannot.
    ours = _modules_after("import optuna_arrl", tmp_path)
    optunas = _modules_after("import optuna", tmp_path)
    extra = {name for name in ours - optunas if name.partition(".")[0] != "optuna_arrl"}
    assert extra == set()


def test_every_public_name_is_there() -> None:
    for name in optuna_arrl.__all__:
        assert getattr(optuna_arrl, name) is not None
        assert name in dir(optuna_arrl)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="LearningRate"):
        optuna_arrl.LearningRate  # noqa: B018


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, links kept as links, so that builds leave no trace here."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, so no wheel can be built: run `make setup`")
    folder = tmp_path_factory.mktemp("checkout")
    for name in _SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in _FILES:
        shutil.copy(_ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-c", _BUILD.format("build_wheel"), folder, cwd=checkout)
    (path,) = folder.glob("*.whl")
    return path


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_has_one_import_name(wheel: Path) -> None:
    top = {name.partition("/")[0] for name in _contents(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"optuna_arrl"}


def test_wheel_holds_frozen_environment_target_and_corpus(wheel: Path) -> None:
    contents = _contents(wheel)
    expected = {
        *(f"frozen_env/{path.name}" for path in (_ROOT / "frozen_env").glob("*.py")),
        "target/train.py",
    }
    assert {"frozen_env/prepare.py", "frozen_env/launcher.py"} <= expected
    for name in expected:
        assert contents[f"optuna_arrl/{name}"] == (_ROOT / name).read_bytes()
    for name in ("_data/sotu.txt.xz", "_data/NOTICE.md", "py.typed"):
        assert contents[f"optuna_arrl/{name}"] == (_ROOT / "optuna_arrl" / name).read_bytes()


def test_wheel_holds_every_module(wheel: Path) -> None:
    modules = {
        str(path.relative_to(_ROOT))
        for path in (_ROOT / "optuna_arrl").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert modules <= _contents(wheel).keys()


def test_source_distribution_gives_the_same_wheel(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    _run(sys.executable, "-c", _BUILD.format("build_sdist"), tmp_path, cwd=checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    _run(sys.executable, "-c", _BUILD.format("build_wheel"), tmp_path, cwd=folder)
    (again,) = tmp_path.glob("*.whl")
    assert _contents(again).keys() == _contents(wheel).keys()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin folder of an environment that has the wheel, and this one's packages to lean on.

    Only a path is added, so the editable install of this repository is not seen there.
    """
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed, so the wheel cannot be: run `make setup`")
    folder = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    python = folder / "bin" / "python"
    options = ("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall")
    _run(sys.executable, "-m", "pip", "--python", python, *options, wheel, cwd=folder)
    yield folder / "bin"


def test_wheel_finds_its_own_target_outside_the_repository(
    installed: Path, tmp_path: Path
) -> None:
    code = "import optuna_arrl; print(optuna_arrl.TrainScriptObjective(profile='cpu').target)"
    target = Path(_run(installed / "python", "-c", code, cwd=tmp_path).stdout.strip())
    assert target.is_relative_to(installed.parent)
    assert target.read_bytes() == (_ROOT / "target" / "train.py").read_bytes()


# Stops long before its budget ends, so that it is complete on the busiest machine.
_SCRIPT = """\
from frozen_env import DEVICE, VOCAB_SIZE, batches, budget_used, report
import torch

WIDTH = 8  # arrl: int 4 16


def build_model():
    embedding = torch.nn.Embedding(VOCAB_SIZE, WIDTH)
    return torch.nn.Sequential(embedding, torch.nn.Linear(WIDTH, VOCAB_SIZE)).to(DEVICE)


def train(model):
    for step, (inputs, targets) in enumerate(batches(2)):
        logits = model(inputs).flatten(0, 1)
        report(step, torch.nn.functional.cross_entropy(logits, targets.flatten()))
        if budget_used() > 0.1:
            break
"""


def test_wheel_runs_a_trial_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_SCRIPT)
    run = ("run", "mine.py", "--trials", "1", "--budget", "5", "--profile", "cpu")
    _run(installed / "arrl", *run, cwd=tmp_path)
    assert "1 complete" in _run(installed / "arrl", "status", cwd=tmp_path).stdout
    assert _run(installed / "arrl", "best", cwd=tmp_path).stdout == _SCRIPT


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (_ROOT / "constraints.txt").read_text(), re.M))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    declared = [
        *project["project"]["dependencies"],
        *(line for group in project["dependency-groups"].values() for line in group),
    ]
    for requirement in map(Requirement, declared):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier
    assert "+" not in pins["torch"]  # which build it is depends on the machine


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("import ensurepip, venv", "sudo apt-get install python3-venv"),
        ("import sys; sys.exit(sys.version_info < (3, 11))", "Python 3.11 or newer is needed"),
    ],
)
def test_setup_names_what_is_missing(lacking: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(_ROOT / "tools" / "setup.sh", tmp_path / "tools")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" = "{lacking}" ] && exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        [tmp_path / "tools" / "setup.sh"],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert not (tmp_path / ".venv").exists()
