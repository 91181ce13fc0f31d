"""What optuna-dashboard shows on a study's page: how far it came, how its policy learned, which
slots mattered.

A figure is a value of the study's, in 2 kB pieces, under a name that stays: saving it again
replaces it. Colours and greys are such that they read on the dashboard's light and dark pages.
"""

from __future__ import annotations

import math
from typing import Any
from typing import TYPE_CHECKING

from optuna.logging import get_logger
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import TrialState

from optuna_arrl.noise import baseline
from optuna_arrl.noise import is_scored
from optuna_arrl.noise import repeat_noise
from optuna_arrl.noise import scored_trials
from optuna_arrl.policy_store import MemoryPolicyStore
from optuna_arrl.policy_store import open_policy_store
from optuna_arrl.policy_store import study_key
from optuna_arrl.trajectory import OUTCOME_KEY
from optuna_arrl.trajectory import POLICY_VERSION_KEY
from optuna_arrl.trajectory import REUSED_FROM_KEY
from optuna_arrl.trajectory import SCORE_NAME
from optuna_arrl.trajectory import score_name


if TYPE_CHECKING:
    from collections.abc import Container

    from optuna.trial import FrozenTrial

    from optuna_arrl.policy_store import PolicyVersion


__all__ = ["BEST_SO_FAR_ID", "IMPORTANCES_ID", "POLICY_ID", "save_figures"]

BEST_SO_FAR_ID = "arrl:best_so_far"
POLICY_ID = "arrl:policy_versions"
IMPORTANCES_ID = "arrl:slot_importances"

_Json = dict[str, Any]

_SAVED_EVERY = 16  # trials
_NORMAL_95 = 1.96
# PED-ANOVA asks which slots set the best tenth apart, and wants five trials in it.
_TARGET_QUANTILE = 0.1
_TARGET_TRIALS = 5
_SHOWN_SLOTS = 20
_LABEL_CHARACTERS = 36
# Edits that ruin the script score far off: the axis begins with the better part of the scores.
_SHOWN_SHARE = 0.75

# From the palette of Okabe and Ito, which the colour-blind can tell apart; the grey has a contrast
# of 4 to 1 and more against white and against the dashboard's dark grey.
_BLUE = "#2b8cc4"
_BAND = "rgba(43,140,196,0.22)"
_ORANGE = "#e69f00"
_RED = "#d55e00"
_GREY = "#808080"
_GRID = "rgba(128,128,128,0.25)"

# Where a study's first returns hardly vary, one of -200 would flatten all that come after it.
_LEAST_EXPLAINED = -1.0

_PANELS = (
    ("approx_kl", "KL to the version before (nats)"),
    ("reference_kl", "KL to version 0 (nats)"),
    ("entropy", "entropy (nats)"),
    ("clip_fraction", "clip fraction (of the steps)"),
    ("explained_variance", f"explained variance (of returns, {_LEAST_EXPLAINED:g} at least)"),
    ("mean_reward", "mean reward (scale-free)"),
)

_logger = get_logger(f"optuna.{__name__}")
_warned: set[str] = set()


def save_figures(study: Study, trial: FrozenTrial | None = None) -> None:
    """Save the study's figures where optuna-dashboard shows them, in place of the last ones.

    They are

    * the best score so far against trials, with the interval in which 95 % of repeats of the best
      trial would lie if nothing but noise moved them (±1.96 times
      :func:`~optuna_arrl.noise.repeat_noise`; that the best of many is a lucky one is not taken
      off), the baseline, every score, and below them the trials that have none;
    * by policy version, what its update measured
      (:class:`~optuna_arrl.sampler.ppo.UpdateStatistics`) and the mean reward of its trials; not
      for a study that no policy drove;
    * how much each slot (parameter) had to do with being among the best, by PED-ANOVA
      (:class:`optuna.importance.PedAnovaImportanceEvaluator`) over the trials that ran to a score:
      failures would swamp it. It takes ten of these.

    A figure that cannot be made or saved is left out with one warning for the study; nothing is
    raised. Of several workers that save at the same moment the last one is shown.

    Args:
        study:
            A single-objective study.
        trial:
            Given by :meth:`~optuna.study.Study.optimize` where this function is one of its
            callbacks. Then figures are saved after the first trial of each policy version and
            every 16th after that, by the worker that ran it, and never for other samplers.

    Example:

        .. code-block:: python

            study.optimize(objective, n_trials=300, callbacks=[save_figures])
            save_figures(study)  # the last trials too
    """
    try:
        if trial is not None and not _is_due(study, trial):
            return
        from optuna_dashboard import save_plotly_graph_object  # heavy: brings a web server
        import plotly.graph_objects
    except Exception as error:
        _warn_once(study, error)
        return
    for graph_object_id, draw in (
        (BEST_SO_FAR_ID, _best_so_far),
        (POLICY_ID, _policy_versions),
        (IMPORTANCES_ID, _importances),
    ):
        try:
            drawn = draw(study)
            if drawn is not None:
                figure = plotly.graph_objects.Figure(drawn)
                save_plotly_graph_object(study, figure, graph_object_id=graph_object_id)
        except Exception as error:
            _warn_once(study, error)


def _is_due(study: Study, trial: FrozenTrial) -> bool:
    """Tell whether a trial is the first that a policy version chose, or every 16th after that."""
    version = trial.user_attrs.get(POLICY_VERSION_KEY)
    if version is None:
        return False
    trials = study.get_trials(deepcopy=False)
    first = next(
        (t.number for t in trials if t.user_attrs.get(POLICY_VERSION_KEY) == version), trial.number
    )
    return (trial.number - first) % _SAVED_EVERY == 0


def _warn_once(study: Study, error: Exception) -> None:
    # A study does not end for want of a picture.
    if study.study_name not in _warned:
        _warned.add(study.study_name)
        _logger.warning(f"Figures of study '{study.study_name}' not saved: {error!r}")


def _best_so_far(study: Study) -> _Json | None:
    """Draw scores, their best so far with its interval, the baseline, and trials without score."""
    scored = [(t.number, v) for t in scored_trials(study) if (v := _finite(t.value)) is not None]
    others = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    others = [t for t in others if not is_scored(t) or _finite(t.value) is None]
    if not scored:
        return None
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    steps: list[tuple[int, float]] = []
    for number, value in scored:
        if not steps or sign * value < sign * steps[-1][1]:
            steps.append((number, value))
    best_number, best_value = steps[-1]
    last = max(scored[-1][0], *(t.number for t in others)) if others else scored[-1][0]
    x = [number for number, _ in steps] + [last]
    y = [value for _, value in steps] + [best_value]
    half = _NORMAL_95 * repeat_noise(study)

    title = f"Best so far: {best_value:.5g}"
    traces: list[_Json] = []
    if half > 0:
        title += f" ± {half:.2g}"
        edge = {"mode": "lines", "line": {"shape": "hv", "width": 0}, "hoverinfo": "skip"}
        lower, upper = ([_rounded(v + side * half) for v in y] for side in (-1.0, 1.0))
        traces += [
            {"x": x, "y": lower, "name": "lower", "showlegend": False, **edge},
            {"x": x, "y": upper, "name": "95 % of its repeats", "fill": "tonexty"}
            | {"fillcolor": _BAND, **edge},
        ]
    title += f" (trial {best_number})"
    traces.append(
        {
            "x": [number for number, _ in scored],
            "y": [_rounded(value) for _, value in scored],
            "name": "score of a trial",
            "mode": "markers",
            "marker": {"color": _GREY, "size": 5, "opacity": 0.7},
        }
    )
    base = baseline(study)
    start = None if base is None else _finite(base.value)
    if start is not None:
        title += f"; baseline: {start:.5g}"
        line = {"color": _ORANGE, "dash": "dash", "width": 2}
        traces.append(
            {"x": [0, last], "y": [_rounded(start)] * 2, "name": "baseline", "mode": "lines"}
            | {"line": line}
        )
    traces.append(
        {
            "x": x,
            "y": [_rounded(value) for value in y],
            "name": "best so far",
            "mode": "lines",
            "line": {"color": _BLUE, "shape": "hv", "width": 2.5},
        }
    )
    layout: _Json = {
        "xaxis": _axis("trial (number)", anchor="y2" if others else "y"),
        "yaxis": _axis(_unit(study), domain=[0.28, 1.0] if others else [0.0, 1.0]),
        "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0.0},
    }
    shown = sorted(sign * value for _, value in scored)
    shown = [sign * s for s in shown[: math.ceil(_SHOWN_SHARE * len(shown))]]
    shown += [] if start is None else [start]
    low, high = min(shown) - half, max(shown) + half
    if low < high:
        margin = 0.05 * (high - low)
        layout["yaxis"]["range"] = [_rounded(low - margin), _rounded(high + margin)]
    if others:
        traces.append(
            {
                "x": [t.number for t in others],
                "y": [_ending(t) for t in others],
                "name": "no score",
                "mode": "markers",
                "marker": {"color": _RED, "size": 7, "symbol": "x-thin-open"},
                "yaxis": "y2",
                "showlegend": False,
            }
        )
        layout["yaxis2"] = _axis("", domain=[0.0, 0.2], type="category", dtick=1)
    return _figure(title, traces, layout)


def _policy_versions(study: Study) -> _Json | None:
    """Draw what the updates measured, one panel a figure, over the versions they made."""
    records = [r for r in _records(study) if r.version > 0]
    if not records:
        return None
    traces: list[_Json] = []
    layout: _Json = {
        "grid": {"rows": 2, "columns": 3, "pattern": "independent", "xgap": 0.2, "ygap": 0.35},
        "showlegend": False,
        "annotations": [],
    }
    for index, (name, label) in enumerate(_PANELS):
        suffix = "" if index == 0 else str(index + 1)
        measured = [_rounded(r.statistics.get(name)) for r in records]
        if name == "explained_variance":
            measured = [None if y is None else max(y, _LEAST_EXPLAINED) for y in measured]
        traces.append(
            {
                "x": [r.version for r in records],
                "y": measured,
                "name": name,
                "mode": "lines+markers",
                "line": {"color": _BLUE, "width": 2},
                "marker": {"size": 5},
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
            }
        )
        # Ticks at whole versions.
        step = {"dtick": 1} if len(records) <= 6 else {}
        layout[f"xaxis{suffix}"] = _axis("policy version" if index >= 3 else "", **step)
        # KL, entropy and clip fraction are never below 0; the other two may be.
        mode = "nonnegative" if index < 4 else "normal"
        layout[f"yaxis{suffix}"] = _axis("", nticks=5, rangemode=mode, exponentformat="e")
        layout["annotations"].append(
            {"text": label, "showarrow": False, "font": {"size": 11}}
            | {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain"}
            | {"x": 0.5, "y": 1.03, "yanchor": "bottom"}
        )
    return _figure("What each update of the policy measured", traces, layout)


def _importances(study: Study) -> _Json | None:
    """Draw what PED-ANOVA says of the slots, over the trials that ran to a score."""
    # A score that was taken over from an earlier trial would count that one twice.
    ran = [t for t in scored_trials(study) if _finite(t.value) is not None]
    ran = [t for t in ran if REUSED_FROM_KEY not in t.user_attrs]
    best_of = max(_TARGET_TRIALS, math.ceil(_TARGET_QUANTILE * len(ran)))
    values: dict[str, set[str]] = {}
    for trial in ran:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(repr(value))
    # Of a slot with one value among them nothing can be told; one that decides crashes is such.
    varied = sorted(name for name, found in values.items() if len(found) > 1)
    if len(ran) < 2 * _TARGET_TRIALS or not varied or len({t.value for t in ran}) == 1:
        return None

    from optuna.importance import get_param_importances  # imports scikit-learn where there is one
    from optuna.importance import PedAnovaImportanceEvaluator

    importances = get_param_importances(
        _StudyOf(study, ran),
        evaluator=PedAnovaImportanceEvaluator(target_quantile=best_of / len(ran)),
        params=varied,
    )
    shown = sorted(importances.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_SLOTS]
    of = f"{len(shown)} of {len(values)} slots" if len(shown) < len(values) else "all slots"
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [name for name, _ in shown],
        "x": [_rounded(share) for _, share in shown],
        "marker": {"color": _BLUE},
    }
    layout = {
        "xaxis": _axis(f"importance for the best {best_of} of {len(ran)} trials (share)"),
        "yaxis": _axis("", autorange="reversed", type="category", dtick=1),
    }
    layout["yaxis"]["tickvals"] = bars["y"]
    layout["yaxis"]["ticktext"] = [_label(name) for name, _ in shown]
    return _figure(f"Slot importances, of trials that ran ({of})", [bars], layout)


class _StudyOf(Study):
    """A study that shows but some of its trials, as importance evaluators take no list."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        super().__init__(study_name=study.study_name, storage=study._storage)
        self._shown = trials

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [t for t in self._shown if states is None or t.state in states]


def _records(study: Study) -> list[PolicyVersion]:
    """Return the versions of a study's policy; none where another sampler chose."""
    # Asked first because a store makes its table when it is read.
    if not any(POLICY_VERSION_KEY in t.user_attrs for t in study.get_trials(deepcopy=False)):
        return []
    store = open_policy_store(study, study_key(study) or "")
    if not isinstance(store, MemoryPolicyStore):
        return store.records()
    from optuna_arrl.sampler import ARRLSampler

    return study.sampler.policy_versions(study) if isinstance(study.sampler, ARRLSampler) else []


def _ending(trial: FrozenTrial) -> str:
    """Return why a finished trial has no score."""
    if is_scored(trial):
        return "not finite"
    if OUTCOME_KEY in trial.user_attrs:
        return str(trial.user_attrs[OUTCOME_KEY])
    return "infeasible" if trial.state == TrialState.COMPLETE else trial.state.name.lower()


def _unit(study: Study) -> str:
    """Return the name of the objective, with its unit where that is known."""
    name = score_name(study)
    return "val_bpb (bits per byte)" if name == SCORE_NAME else name


def _label(name: str) -> str:
    """Return a name as it fits beside a bar: of a qualified one the end says more."""
    return name if len(name) <= _LABEL_CHARACTERS else f"…{name[1 - _LABEL_CHARACTERS :]}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    """Return six digits, which is what a figure shows and a third of what a float takes."""
    return None if value is None else float(f"{value:.6g}")


def _axis(title: str, **options: Any) -> _Json:
    lines = {"gridcolor": _GRID, "linecolor": _GREY, "zeroline": False, "automargin": True}
    return {"title": {"text": title}, **lines, **options}


def _figure(title: str, traces: list[_Json], layout: _Json) -> _Json:
    """Return a figure on a transparent ground, without the 6 kB of plotly's default template."""
    common: _Json = {
        "template": "none",
        "title": {"text": title, "font": {"size": 15}, "x": 0.02},
        "font": {"color": _GREY},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": _GREY, "activecolor": _BLUE},
        "margin": {"l": 60, "r": 20, "t": 70, "b": 50},
    }
    return {"data": traces, "layout": {**common, **layout}}
