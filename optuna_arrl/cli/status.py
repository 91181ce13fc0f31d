"""`arrl status`: where a study stands."""

from __future__ import annotations

from collections import Counter
import statistics
from typing import Any
from typing import TYPE_CHECKING

import click

from optuna_arrl.cli._study import bad_input
from optuna_arrl.cli._study import open_study
from optuna_arrl.cli._study import shown_url
from optuna_arrl.cli._study import study_options


if TYPE_CHECKING:
    from optuna.study import Study


__all__ = ["status"]

_EPILOG = """
\b
Examples:
  arrl status
  arrl status --storage sqlite:///other.db --study train
"""


@click.command(epilog=_EPILOG)
@study_options
def status(storage_url: str, study_name: str | None) -> None:
    """Show where a study stands.

    Trials by outcome, best score, noise, policy version, time, and what ended it.
    """
    study = open_study(storage_url, study_name)
    lines = _lines(study)
    click.echo(f"{'study':<14}{study.study_name} in {shown_url(storage_url)}")
    for label, text in lines:
        click.echo(f"{label:<14}{text}")


def _lines(study: Study) -> list[tuple[str, str]]:
    from optuna_arrl import noise
    from optuna_arrl.cli._report import duration
    from optuna_arrl.cli._report import outcome_of
    from optuna_arrl.cli._report import score_line
    from optuna_arrl.policy_store import open_policy_store
    from optuna_arrl.policy_store import study_key
    from optuna_arrl.trajectory import FIXED_PARAMS_KEY
    from optuna_arrl.trajectory import POLICY_VERSION_KEY
    from optuna_arrl.trajectory import SAMPLER_SEED_KEY
    from optuna_arrl.trajectory import SANDBOX_KEY
    from optuna_arrl.trajectory import score_name
    from optuna_arrl.trajectory import STOPPED_KEY

    trials = study.get_trials(deepcopy=False)
    finished = noise.finished_trials(study)
    outcomes = Counter(map(outcome_of, trials))
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    lines = [("trials", f"{len(finished)} finished" + (f" ({counts})" if counts else ""))]

    name = score_name(study)
    with bad_input(ValueError):  # of several objectives
        base = noise.baseline(study)
    if base is not None:
        lines.append(("baseline", score_line(base, None, name).removesuffix(" (no baseline)")))
    try:
        lines.append(("best", score_line(noise.best(study), base, name)))
    except ValueError:
        lines.append(("best", "no score yet"))
    lines.append(("noise", f"{noise.repeat_noise(study):.2g} (one repeat of the same edit, ±)"))

    versions = [v for t in trials if (v := t.user_attrs.get(POLICY_VERSION_KEY)) is not None]
    if versions:
        # The newest may not have chosen an edit yet; one that lived in memory is gone.
        newest = open_policy_store(study, study_key(study) or "").newest() or 0
        lines.append(("policy", f"version {max(newest, *versions)}"))
    elif SAMPLER_SEED_KEY in study._storage.get_study_system_attrs(study._study_id) or all(
        FIXED_PARAMS_KEY in t.system_attrs for t in finished
    ):
        lines.append(("policy", "none yet"))
    else:
        lines.append(("policy", "none: another sampler chose"))
    if boxes := Counter(b for t in trials if (b := t.user_attrs.get(SANDBOX_KEY)) is not None):
        named = ", ".join(f"{count} in {name}" for name, count in boxes.most_common())
        lines.append(("boxes", named + (" (not isolated)" if "none" in boxes else "")))
    seconds = [t.duration.total_seconds() for t in finished if t.duration is not None]
    if seconds:
        median = duration(statistics.median(seconds))
        lines.append(("time", f"{median} a trial (median), {duration(sum(seconds))} together"))
    lines.append(("stopped by", _stopped(study.user_attrs.get(STOPPED_KEY), len(finished))))
    return lines


def _stopped(stopped: dict[str, Any] | None, finished: int) -> str:
    if stopped is None:
        return "nothing so far"
    later = finished - stopped["finished"]
    text = f"{stopped['rule']}: {stopped['message']}"
    return f"{text} ({later} more since)" if later > 0 else text
