"""How a study's results are laid out on a terminal."""

from __future__ import annotations

from typing import Any
from typing import TYPE_CHECKING

from optuna.trial import TrialState
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from optuna_arrl.noise import baseline
from optuna_arrl.noise import scored_trials
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import REUSED_FROM_KEY


if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from optuna_arrl.script import Script


_ROWS = 8
_CHANGES = 4
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def outcome_of(trial: FrozenTrial) -> str:
    """Return how a trial ended; one that the machine or Ctrl-C ended has no outcome."""
    if trial.state == TrialState.FAIL:
        return "lost"
    return str(trial.user_attrs.get(OUTCOME_KEY, trial.state.name.lower()))


def duration(seconds: float) -> str:
    """Return a duration for people: ``"24 s"``, ``"8 min"``, ``"2.5 h"``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def best_table(study: Study, script: Script) -> Table:
    """Return the best trials, the best first, with what each changed of the baseline."""
    base = baseline(study)
    table = Table(title="Best trials", title_justify="left", box=SIMPLE)
    for name in ("rank", "trial", "val_bpb", "Δ to baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome")
    table.add_column("seconds", justify="right")
    table.add_column("changes", overflow="fold")
    # An edit that was seen before has its score twice; it is one result.
    trials = [trial for trial in scored_trials(study) if REUSED_FROM_KEY not in trial.user_attrs]
    trials.sort(key=lambda trial: trial.value or 0.0)
    for rank, trial in enumerate(trials[:_ROWS], start=1):
        assert trial.value is not None
        is_base = base is not None and trial.number == base.number
        delta = f"{trial.value - base.value:+.4f}" if base is not None and base.value else "?"
        table.add_row(
            str(rank),
            str(trial.number),
            f"{trial.value:.4f}",
            "" if is_base else delta,
            outcome_of(trial),
            f"{trial.duration.total_seconds():.0f}" if trial.duration is not None else "",
            Text("baseline" if is_base else changes(trial.params, script)),
        )
    return table


def changes(params: Mapping[str, Any], script: Script) -> str:
    """Return what parameters change of a script: ``"DEPTH 3 → 4, BFLOAT16 True → False"``."""
    defaults = script.defaults()
    changed = [
        f"{slot.name} {_brief(slot.default)} → {_brief(slot.from_param(params[name]))}"
        for name, slot in script.active.items()
        if name in params and params[name] != defaults[name]
    ]
    shown = ", ".join(changed[:_CHANGES])
    hidden = len(changed) - _CHANGES
    return f"{shown}, … {hidden} more" if hidden > 0 else shown or "none"


def print_diff(console: Console, diff: str) -> None:
    """Print a unified diff, coloured where the console can."""
    for line in diff.splitlines():
        style = "bold" if line.startswith(("+++", "---")) else _STYLES.get(line[:1], "")
        console.print(Text(line, style=style), soft_wrap=True)


def score_line(trial: FrozenTrial, base: FrozenTrial | None, name: str = "val_bpb") -> str:
    """Return a trial's score beside the baseline's in one line."""
    assert trial.value is not None
    text = f"trial {trial.number}, {name} {trial.value:.4f}"
    if base is None or base.value is None:
        return f"{text} (no baseline)"
    if trial.number == base.number:
        return f"{text}, the baseline itself"
    gain = base.value - trial.value
    return f"{text}, {abs(gain):.4f} {'below' if gain >= 0 else 'above'} the baseline"


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
