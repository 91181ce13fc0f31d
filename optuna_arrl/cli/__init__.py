"""The command line, `arrl`: click commands around the package, nothing else.

Every module here imports what is heavy (optuna, torch, pandas) inside its command, so that
``arrl --help`` answers at once.
"""

from __future__ import annotations

import click

from optuna_arrl._version import __version__
from optuna_arrl.cli.best import best
from optuna_arrl.cli.dashboard import dashboard
from optuna_arrl.cli.diff import diff
from optuna_arrl.cli.doctor import doctor
from optuna_arrl.cli.prepare import prepare
from optuna_arrl.cli.pretrain import pretrain
from optuna_arrl.cli.run import run
from optuna_arrl.cli.slots import slots
from optuna_arrl.cli.status import status


__all__ = ["main"]

_EPILOG = """
\b
A first study, on the script that comes with the package:
  arrl doctor                      what can this machine do?
  arrl run --until 24              run 24 edits of it; Ctrl-C stops, the same line resumes
  arrl status                      where does the study stand?
  arrl best -o best.py             take the result
  arrl dashboard                   curves, diffs and artifacts in a browser

\b
A study of your own script:
  arrl run train.py                until it has converged
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, package_name="optuna-arrl", prog_name="arrl")
def main() -> None:
    """AutoResearch as an Optuna study.

    A policy edits a training script, runs every edit under a budget, gets an unforgeable score
    back, and learns which edits pay.
    """


for _command in (run, status, best, diff, dashboard, slots, prepare, doctor, pretrain):
    main.add_command(_command)
