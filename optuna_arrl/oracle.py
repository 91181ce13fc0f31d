"""When a study may end: rules that read the study, and the callback that asks them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
import math
import statistics
from typing import Any
from typing import TYPE_CHECKING
import warnings

from optuna.logging import get_logger
from optuna.study import StudyDirection

from optuna_arrl.noise import finished_trials
from optuna_arrl.noise import is_scored
from optuna_arrl.noise import repeat_noise
from optuna_arrl.noise import scored_trials
from optuna_arrl.noise import spread
from optuna_arrl.trajectory import ACTION_KEY
from optuna_arrl.trajectory import STOPPED_KEY


if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


__all__ = ["Convergence", "Evidence", "MaxSeconds", "MaxTrials", "Rule", "TerminationOracle"]

# A child of Optuna's logger, so that `optuna.logging.set_verbosity` governs this sentence too.
_logger = get_logger(f"optuna.{__name__}")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Why a study may end.

    Args:
        rule:
            Name of the rule that says so.
        message:
            One sentence for people.
        figures:
            The numbers that the rule compared, by name.
    """

    rule: str
    message: str
    figures: dict[str, float] = field(default_factory=dict)


Rule = Callable[["Study"], Evidence | None]
"""A rule reads a study and returns evidence that it may end, or :obj:`None`."""


class Convergence:
    """End a study that stands still, when its policy expects no more of it either.

    Both must hold. First, over the last ``window`` finished trials the best score moved by no
    more than noise: the luckiest of ``window`` equal trials lies about two standard deviations
    above their mean, so a gain up to twice the repeat noise is what standing still looks like.
    Second, the gain that the policy expected of its own edits in the window (the median of what
    was stored with each trial before it ran) is at most ``threshold``. A study that another
    sampler drives stores no expectation and is judged by its window alone.

    Args:
        window:
            Finished trials without a gain that make a standstill.
        threshold:
            Expected gain not worth a trial, in the unit of the objective. By default the repeat
            noise (see :func:`~optuna_arrl.noise.repeat_noise`); where repeats agree exactly, a
            thousandth of the scores' spread.

    Raises:
        ValueError:
            When ``window`` is below 1 or ``threshold`` below 0.
    """

    def __init__(self, *, window: int = 30, threshold: float | None = None) -> None:
        if window < 1:
            raise ValueError(f"`window` must be at least 1, but got {window}.")
        if threshold is not None and not threshold >= 0:
            raise ValueError(f"`threshold` must not be negative, but got {threshold}.")
        self._window = window
        self._threshold = threshold

    def __call__(self, study: Study) -> Evidence | None:
        """Return evidence when the study has converged."""
        scored = scored_trials(study)
        recent = finished_trials(study)[-self._window :]
        if len(recent) < self._window:
            return None
        earlier = [trial for trial in scored if trial.number < recent[0].number]
        if not earlier:
            return None  # Nothing was reached before the window that it could have improved on.

        better = max if study.direction == StudyDirection.MAXIMIZE else min
        best_before = better(_value(trial) for trial in earlier)
        best_now = better(_value(trial) for trial in scored)
        gain = abs(best_now - best_before)
        noise = repeat_noise(study)
        if not gain <= 2 * noise:
            return None

        figures = {"window": len(recent), "gain": gain, "noise": noise}
        message = f"{self._window} finished trials brought no gain beyond noise ({2 * noise:.2g})"
        expected = [hope for trial in recent if (hope := _expected_gain(trial)) is not None]
        if expected:
            threshold = self._threshold
            if threshold is None:
                # A deterministic objective has no noise, and expected gains only approach zero.
                threshold = max(noise, spread(scored) / 1000)
            median = statistics.median(expected)
            if not median <= threshold:
                return None
            figures |= {"expected_gain": median, "threshold": threshold}
            message += f", and the policy expects no more than {median:.2g} of the next edits"
        return Evidence(rule="convergence", message=f"{message}.", figures=figures)


class MaxTrials:
    """End a study that holds ``n`` finished trials, whichever workers ran them.

    Complete and pruned trials count, edits that failed among them. Trials that the machine
    failed (``FAIL`` in Optuna) do not.

    Args:
        n:
            Finished trials.

    Raises:
        ValueError:
            When ``n`` is below 1.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"`n` must be at least 1, but got {n}.")
        self._n = n

    def __call__(self, study: Study) -> Evidence | None:
        """Return evidence when enough trials are finished."""
        finished = len(finished_trials(study))
        if finished < self._n:
            return None
        return Evidence(
            rule="max_trials",
            message=f"Finished trials reached the limit of {self._n}.",
            figures={"finished": finished, "limit": self._n},
        )


class MaxSeconds:
    """End a study whose finished trials took ``seconds`` together.

    What counts is the sum of the trials' own durations, from storage. Wall-clock time since the
    first trial would count the nights between two runs of one study; this counts machine time,
    so two workers use it up twice as fast. Trials that the machine failed do not count: after a
    power cut, the duration of one is the time that nobody came back.

    Args:
        seconds:
            Seconds of all finished trials together.

    Raises:
        ValueError:
            When ``seconds`` is not positive.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive, but got {seconds}.")
        self._seconds = seconds

    def __call__(self, study: Study) -> Evidence | None:
        """Return evidence when the time is used up."""
        used = sum(
            trial.duration.total_seconds()
            for trial in finished_trials(study)
            if trial.duration is not None
        )
        if used < self._seconds:
            return None
        return Evidence(
            rule="max_seconds",
            message=f"Finished trials reached the limit of {self._seconds:.0f} s together.",
            figures={"seconds": used, "limit": self._seconds},
        )


class TerminationOracle:
    """End a study when one of its rules says so: a callback for ``study.optimize``.

    The rules read the study from its storage, so an oracle is right for any number of workers,
    and for a study that is resumed. Which rule fired, and its evidence, is kept in the study's
    user attribute ``arrl:stopped``. A rule that raises is left out with one warning; it never
    ends the study.

    Args:
        rules:
            Callables ``(study) -> Evidence | None``; any of them ends the study. By default
            :class:`Convergence` alone: the study goes on until it has converged.

    Raises:
        ValueError:
            When ``rules`` is empty.

    Example:

        .. code-block:: python

            oracle = TerminationOracle([Convergence(window=50), MaxTrials(500)])
            evidence = oracle.evidence(study)
            if evidence is None:
                study.optimize(objective, callbacks=[oracle])
    """

    def __init__(self, rules: Sequence[Rule] | None = None) -> None:
        if rules is not None and not rules:
            raise ValueError("`rules` must hold at least one rule.")
        self._rules: tuple[Callable[[Study], Any], ...] = (
            (Convergence(),) if rules is None else tuple(rules)
        )
        self._broken: set[int] = set()

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study when a rule fires (Optuna calls this after each trial)."""
        evidence = self.evidence(study)
        if evidence is not None:
            self.record(study, evidence)
            study.stop()

    def record(self, study: Study, evidence: Evidence) -> None:
        """Keep with the study what ended it."""
        stopped = {
            "rule": evidence.rule,
            "message": evidence.message,
            "figures": {name: float(value) for name, value in evidence.figures.items()},
            "finished": len(finished_trials(study)),
        }
        study.set_user_attr(STOPPED_KEY, stopped)
        _logger.info(f"Study '{study.study_name}' stops: {evidence.message}")

    def evidence(self, study: Study) -> Evidence | None:
        """Ask every rule; writes nothing, so it can be asked before the first trial.

        Returns:
            What the first rule that fires has to say, or :obj:`None` when the study goes on.
        """
        for index, rule in enumerate(self._rules):
            try:
                evidence = rule(study)
                if evidence is not None and not isinstance(evidence, Evidence):
                    raise TypeError(f"it returned {evidence!r} where Evidence or None is due")
            except Exception as error:
                self._warn_once(index, error)
            else:
                if evidence is not None:
                    return evidence
        return None

    def _warn_once(self, index: int, error: Exception) -> None:
        if index in self._broken:
            return
        self._broken.add(index)
        rule = self._rules[index]
        name = getattr(rule, "__name__", type(rule).__name__)
        warnings.warn(
            f"Termination rule '{name}' is broken and cannot end the study: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )


def _expected_gain(trial: FrozenTrial) -> float | None:
    """Return what the policy expected of a trial before it ran, in the unit of the objective."""
    # Not decoded whole: an action of another version of this package says what it expected too.
    action = trial.system_attrs.get(ACTION_KEY)
    gain = action.get("expected_gain") if isinstance(action, dict) else None
    return float(gain) if gain is not None and math.isfinite(gain) else None


def _value(trial: FrozenTrial) -> float:
    assert is_scored(trial) and trial.value is not None
    return trial.value
