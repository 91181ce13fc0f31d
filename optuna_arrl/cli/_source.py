"""The script that a trial ran, and its diff, for the commands that hand them out."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
from pathlib import Path
import sys
from typing import Any
from typing import TYPE_CHECKING
from typing import TypeVar

import click

from optuna_arrl.cli._study import BadInput


if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from optuna_arrl.script import Script


_SHIPPED_TARGET = Path(__file__).parents[1] / "target" / "train.py"
_Command = TypeVar("_Command", bound=Callable[..., Any])


def target_option(command: _Command) -> _Command:
    """Add ``--target``, by which an edit can be made again when its artifact is lost."""
    return click.option(
        "--target",
        type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
        metavar="FILE",
        help="The script that the study edits; needed only where artifacts are lost.",
    )(command)


def trial_of(study: Study, number: int) -> FrozenTrial:
    """Return a trial by its number.

    Raises:
        BadInput:
            When the study has no such trial.
    """
    trials = study.get_trials(deepcopy=False)
    if number >= len(trials):
        there = f"only 0 to {len(trials) - 1}" if trials else "and no other yet"
        raise BadInput(f"Study '{study.study_name}' has no trial {number}, {there}.")
    return trials[number]


def source_of(study: Study, trial: FrozenTrial, target: Path | None) -> str:
    """Return the script that a trial ran: its artifact, or made again where that is lost.

    Args:
        study:
            The study of the trial.
        trial:
            The trial.
        target:
            The unmodified script, to make the edit again; by default the one of this package.

    Raises:
        BadInput:
            When the trial left none and it cannot be made again either.
    """
    from optuna_arrl.objective.records import load_source

    try:
        return load_source(study, trial)
    except LookupError as error:
        return _script_of(study, trial, target, lost=str(error)).render(trial.params)


def diff_of(study: Study, trial: FrozenTrial, target: Path | None) -> str:
    """Return a trial's unified diff against the unmodified script, see :func:`source_of`.

    It is empty for the baseline.
    """
    from optuna_arrl.objective.records import artifact_text
    from optuna_arrl.objective.records import DIFF_NAME
    from optuna_arrl.objective.records import diff_path
    from optuna_arrl.script import unified_diff

    try:
        return artifact_text(study, trial, DIFF_NAME)
    except LookupError as error:
        script = _script_of(study, trial, target, lost=str(error))
        path = diff_path(target or _SHIPPED_TARGET)
        return unified_diff(script.source, script.render(trial.params), path)


def _script_of(study: Study, trial: FrozenTrial, target: Path | None, *, lost: str) -> Script:
    """Return the unmodified script, when it is the one that the study was made with."""
    from optuna_arrl.script import Script
    from optuna_arrl.trajectory import MANIFEST_KEY
    from optuna_arrl.trajectory import OUTCOME_KEY

    if not trial.state.is_finished():
        raise BadInput(
            f"Trial {trial.number} of study '{study.study_name}' has not ended yet: there is no "
            "script of it before."
        )
    manifest = study._storage.get_study_system_attrs(study._study_id).get(MANIFEST_KEY)
    if manifest is None:
        raise BadInput(f"Study '{study.study_name}' edits no script, so there is none to show.")
    if OUTCOME_KEY not in trial.user_attrs:
        raise BadInput(
            f"Trial {trial.number} of study '{study.study_name}' was lost before its end: it left "
            "no script."
        )
    path = target or _SHIPPED_TARGET
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.get("target"):
        hint = " (or name the script that the study edits with --target)."
        raise BadInput(lost.removesuffix(".") + hint)
    source = content.decode("utf-8")
    searched = [slot.name for slot in Script(source).slots if slot.param_name in trial.params]
    return Script(source, activate=searched)


def write_diff(diff: str) -> None:
    """Write a diff to stdout: coloured on a terminal, byte by byte for ``git apply`` elsewhere."""
    if not diff:
        click.echo("No difference: this is the unmodified script.", err=True)
    if sys.stdout.isatty():
        from rich.console import Console

        from optuna_arrl.cli._report import print_diff

        print_diff(Console(), diff)
    else:
        click.echo(diff.encode("utf-8"), nl=False)
