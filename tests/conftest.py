"""What all tests share: one thread a process, a quiet Optuna, a cache of their own."""

from __future__ import annotations

from collections.abc import Iterator
import os

from hypothesis import settings
import optuna
import pytest


# Before anything imports torch: with more threads than cores, tests that train crawl. Boxes are
# given their own environment and are not touched by this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine makes no test wrong.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep prepared corpora out of the user's cache folder; made once a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = len(terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.write_sep(
            "!",
            f"{skipped} skipped: what they check is not checked here; the reasons follow",
            red=True,
            bold=True,
        )
