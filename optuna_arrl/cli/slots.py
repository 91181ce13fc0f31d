"""`arrl slots`: what of a script can be searched, by name."""

from __future__ import annotations

from pathlib import Path

import click

from optuna_arrl.cli._study import bad_input


__all__ = ["slots"]

_SHIPPED_TARGET = Path(__file__).parents[1] / "target" / "train.py"
_EPILOG = """
\b
Examples:
  arrl slots                       of the script that comes with the package
  arrl slots train.py              of yours

A study searches those marked *; `arrl run --activate NAME` searches another one too.
"""


@click.command(epilog=_EPILOG)
@click.argument(
    "target",
    default=_SHIPPED_TARGET,
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
)
def slots(target: Path) -> None:
    """List the slots of TARGET: name, value and line of each literal that an edit may change."""
    from optuna_arrl.script import Script

    with bad_input(ValueError):
        found = Script(target.read_bytes().decode("utf-8")).slots
    for slot in found:
        if slot.searchable:
            mark = "*" if slot.active else " "
            place = f"line {slot.line}" if slot.line else "catalogue"
            click.echo(f"{mark} {slot.name} = {slot.default!r}  ({place})")
