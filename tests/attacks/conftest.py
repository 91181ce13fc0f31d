"""What the attacks share: a tiny corpus, runners with and without a defence, a record of each."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny import prepare_tiny

from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective import cores
from optuna_arrl.objective import supply
from optuna_arrl.objective.sandbox import choose_sandbox
from optuna_arrl.objective.sandbox import SandboxUnavailable


# Their files are attacks, not tests, whatever they are called.
collect_ignore_glob = ["leaks/*", "honest/*", "scoring/*", "channels/*", "programs/*"]

# Where `make attacks` collects one JSON line an attack; docs/threat-model.md has the table.
_RECORDS = "ARRL_ATTACK_RECORDS"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_tiny(tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("prepared"))


@pytest.fixture(autouse=True)
def _nothing_started_ahead(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """One box at a time: what an attack leaves behind is then its own.

    Unless a test is about the boxes that wait meanwhile, as they do by default.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "started_ahead" in request.keywords:
            # What else trains on this machine leaves them a core.
            folder = tmp_path_factory.mktemp("cores")
            patch.setattr(cores, "_folder", lambda: folder)
        else:
            patch.setattr(supply, "start_lock", lambda cores: None)
        yield


@pytest.fixture(scope="session", params=["bubblewrap", "landlock"])
def isolating(request: pytest.FixtureRequest, prepared: Prepared) -> str:
    """Name of each sandbox that isolates; skips, with the reason, where it does not hold."""
    secrets = (prepared.private / "val.bin", embedded_corpus_file())
    try:
        choose_sandbox(request.param, secrets=secrets, readable=prepared.folder)
    except SandboxUnavailable as error:
        pytest.skip(f"no box by {request.param} on this machine: {error}")
    name: str = request.param
    return name


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Any:
    """Call it with an attack's name and what it came to, for the table of the threat model.

    ``record(attack, tries=..., undefended=..., defended=...)``, a clause each.
    """

    def write(attack: str, *, tries: str, undefended: str, defended: str) -> None:
        path = os.environ.get(_RECORDS)
        if path is None:
            return
        row = {
            "attack": attack,
            "tries": tries,
            "undefended": undefended,
            "defended": defended,
            "test": request.node.nodeid,
        }
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    return write
