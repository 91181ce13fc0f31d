"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
import importlib
import logging
from pathlib import Path
from typing import Any
import warnings

from cli_fakes import Arrl
from cli_fakes import FakeObjective
from click.testing import CliRunner
from click.testing import Result
import optuna
import pytest

from optuna_arrl.cli import main
from optuna_arrl.trajectory import Outcome


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; what commands change of the process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    logger = logging.getLogger("optuna.study._optimize")
    level, verbosity = logger.level, optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        yield tmp_path
    logger.setLevel(level)
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def arrl(folder: Path) -> Arrl:
    """Run `arrl` with arguments, in an empty folder."""

    def invoke(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="arrl")

    return invoke


@pytest.fixture
def fake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeObjective:
    """Replace the objective that `arrl run` makes."""
    objective = FakeObjective()

    def make(target: Path | None, **options: Any) -> FakeObjective:
        objective.target = target or Path("train.py")
        return objective

    # Not by its dotted name: in the package, `run` is the command.
    monkeypatch.setattr(importlib.import_module("optuna_arrl.cli.run"), "make_objective", make)
    return objective


@pytest.fixture
def study(arrl: Arrl, fake: FakeObjective) -> optuna.Study:
    """A study in ./arrl.db: baseline, a good edit, a crash, a pruned trial."""
    storage = "sqlite:///arrl.db"
    made = optuna.create_study(storage=storage, study_name="arrl")
    fake.enqueue_baseline(made)
    for params in ({"LR": 0.5, "DEPTH": 4}, {"LR": 1.0, "DEPTH": 8}, {"LR": 0.01, "DEPTH": 1}):
        made.enqueue_trial(params)
    fake.events = [Outcome.COMPLETE, Outcome.COMPLETE, Outcome.CRASH, Outcome.PRUNED]
    made.optimize(fake, n_trials=4)
    return optuna.load_study(storage=storage, study_name="arrl")
