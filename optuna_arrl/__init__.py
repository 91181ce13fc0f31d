"""AutoResearch as an Optuna study.

A policy edits a training script, runs every edit under a budget, gets a score that the edit cannot
forge, and learns which edits pay. README.md starts here; docs/theory.md has the decision process.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any
from typing import TYPE_CHECKING

from optuna_arrl._version import __version__


if TYPE_CHECKING:
    from optuna_arrl.figures import save_figures
    from optuna_arrl.noise import best
    from optuna_arrl.objective.manifest import ManifestMismatch
    from optuna_arrl.objective.objective import TrainScriptObjective
    from optuna_arrl.oracle import TerminationOracle
    from optuna_arrl.sampler import ARRLSampler
    from optuna_arrl.trajectory import FAILURE_BPB
    from optuna_arrl.trajectory import load_trajectory
    from optuna_arrl.trajectory import Outcome


__all__ = [
    "FAILURE_BPB",
    "ARRLSampler",
    "ManifestMismatch",
    "Outcome",
    "TerminationOracle",
    "TrainScriptObjective",
    "__version__",
    "best",
    "load_trajectory",
    "save_figures",
]

# Where each public name lives. Imported on first use (PEP 562): the sampler needs torch and the
# objective libcst, and whoever uses one of them should not wait for the other.
_HOMES = {
    "ARRLSampler": "optuna_arrl.sampler",
    "FAILURE_BPB": "optuna_arrl.trajectory",
    "ManifestMismatch": "optuna_arrl.objective.manifest",
    "Outcome": "optuna_arrl.trajectory",
    "TerminationOracle": "optuna_arrl.oracle",
    "TrainScriptObjective": "optuna_arrl.objective.objective",
    "best": "optuna_arrl.noise",
    "load_trajectory": "optuna_arrl.trajectory",
    "save_figures": "optuna_arrl.figures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOMES.keys())
