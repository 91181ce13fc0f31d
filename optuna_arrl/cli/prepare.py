"""`arrl prepare`: make the tokens and the tokenizer before the first study."""

from __future__ import annotations

from pathlib import Path

import click

from optuna_arrl.cli._study import bad_input


__all__ = ["prepare"]

_EPILOG = """
\b
Examples:
  arrl prepare                     the State of the Union addresses
  arrl prepare --corpus texts/     your own .txt files, split by file

`arrl run` does this by itself; a second call finds everything there.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--profile",
    type=click.Choice(["cpu", "gpu"]),
    help="Sizes to prepare for.  [default: gpu where there is one]",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of .txt files.  [default: State of the Union addresses]",
)
def prepare(profile: str | None, corpus: Path | None) -> None:
    """Make tokens and tokenizer ahead of a study.

    Training tokens for the boxes, hidden validation tokens for the scorer. Does nothing when they
    are there.
    """
    from optuna_arrl.frozen_env import prepare as frozen
    from optuna_arrl.frozen_env.corpus import CorpusError
    from optuna_arrl.objective.machine import default_profile

    name = profile or default_profile()
    with bad_input(CorpusError, frozen.FrozenSetChanged, OSError):
        prepared = frozen.prepare(name, corpus=corpus)
    click.echo(
        f"Profile {name}: {prepared.manifest['train_tokens']:,} training tokens of "
        f"{prepared.manifest['corpus']}, "
        f"{prepared.manifest['train_bytes_per_token']:.2f} bytes each, in {prepared.root}"
    )
