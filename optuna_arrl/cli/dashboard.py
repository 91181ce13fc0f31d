"""`arrl dashboard`: a study in the browser."""

from __future__ import annotations

import click

from optuna_arrl.cli._study import BadInput
from optuna_arrl.cli._study import open_study
from optuna_arrl.cli._study import study_options


__all__ = ["dashboard"]

_EPILOG = """
\b
Examples:
  arrl dashboard                   then open http://127.0.0.1:8080
  arrl dashboard --port 9000       where 8080 is taken

It has no password: whoever reaches the port can read and change the study.
"""


@click.command(epilog=_EPILOG)
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; stay local."
)
@study_options
def dashboard(port: int, host: str, storage_url: str, study_name: str | None) -> None:
    """Show a study in the browser.

    Serves learning curves, coloured diffs, scripts and logs with optuna-dashboard; the study's
    page shows how far it came, how its policy learned, and which slots mattered.
    """
    study = open_study(storage_url, study_name)

    import optuna_dashboard

    from optuna_arrl.figures import save_figures
    from optuna_arrl.objective.records import artifact_store_of

    try:
        store = artifact_store_of(study)
    except LookupError as error:  # curves and figures are in the study itself
        click.echo(f"{error} Shown without artifacts.", err=True)
        store = None
    save_figures(study)
    click.echo(f"http://{host}:{port}/dashboard/studies/{study._study_id} (Ctrl-C stops)")
    try:
        optuna_dashboard.run_server(study._storage, host=host, port=port, artifact_store=store)
    except OSError as error:
        raise BadInput(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
