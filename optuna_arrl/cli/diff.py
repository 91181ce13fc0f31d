"""`arrl diff`: what one trial changed."""

from __future__ import annotations

from pathlib import Path

import click

from optuna_arrl.cli._source import diff_of
from optuna_arrl.cli._source import target_option
from optuna_arrl.cli._source import trial_of
from optuna_arrl.cli._source import write_diff
from optuna_arrl.cli._study import open_study
from optuna_arrl.cli._study import study_options


__all__ = ["diff"]

_EPILOG = """
\b
Examples:
  arrl diff 7                      in colour
  arrl diff 7 | git apply          made to the script
"""


@click.command(epilog=_EPILOG)
@click.argument("number", type=click.IntRange(min=0), metavar="N")
@target_option
@study_options
def diff(number: int, target: Path | None, storage_url: str, study_name: str | None) -> None:
    """Show what trial N changed.

    A unified diff against the unmodified script, as `git apply` takes it.
    """
    study = open_study(storage_url, study_name)
    write_diff(diff_of(study, trial_of(study, number), target))
