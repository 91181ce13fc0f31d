"""`arrl best`: take the best script, or its diff."""

from __future__ import annotations

from pathlib import Path

import click

from optuna_arrl.cli._source import diff_of
from optuna_arrl.cli._source import source_of
from optuna_arrl.cli._source import target_option
from optuna_arrl.cli._source import write_diff
from optuna_arrl.cli._study import bad_input
from optuna_arrl.cli._study import BadInput
from optuna_arrl.cli._study import open_study
from optuna_arrl.cli._study import study_options


__all__ = ["best"]

_EPILOG = """
\b
Examples:
  arrl best -o best.py             write the best script
  arrl best --diff                 what it changes
  arrl best --diff | git apply     … made to the script in this folder
"""


@click.command(epilog=_EPILOG)
@click.option("--diff", "as_diff", is_flag=True, help="The diff against the target instead.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    metavar="FILE",
    help="Where to write.  [default: stdout]",
)
@target_option
@study_options
def best(
    as_diff: bool,
    output: Path,
    target: Path | None,
    storage_url: str,
    study_name: str | None,
) -> None:
    """Write the best script of a study.

    The best is the trial with the lowest val_bpb among those that ran to the end; pruned and
    failed ones never win.
    """
    from optuna_arrl import noise
    from optuna_arrl.cli._report import score_line

    study = open_study(storage_url, study_name)
    with bad_input(ValueError):
        winner = noise.best(study)
    text = (diff_of if as_diff else source_of)(study, winner, target)
    if str(output) != "-":
        try:
            output.write_bytes(text.encode("utf-8"))
        except OSError as error:
            raise BadInput(f"Cannot write {output}: {error.strerror}.") from error
        click.echo(f"Wrote {output}: {score_line(winner, noise.baseline(study))}.", err=True)
    elif as_diff:
        write_diff(text)
    else:
        click.echo(text.encode("utf-8"), nl=False)
