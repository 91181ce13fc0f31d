"""What a user sees while a study runs: a bar on a terminal, one line per trial elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import SpinnerColumn
from rich.progress import TextColumn

from optuna_arrl.cli._report import duration
from optuna_arrl.cli._report import outcome_of
from optuna_arrl.noise import best
from optuna_arrl.noise import finished_trials
from optuna_arrl.noise import is_scored
from optuna_arrl.trajectory import REASON_KEY


if TYPE_CHECKING:
    from types import TracebackType

    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from rich.console import Console


class TrialProgress:
    """A study callback and context manager that shows each trial as it ends.

    Args:
        console:
            Where to print; a bar is drawn when it is a terminal.
        study:
            The study that is about to run.
        more:
            Trials that this run adds, or :obj:`None`.
        until:
            Finished trials that the study shall hold, whoever runs them, or :obj:`None`.
    """

    def __init__(
        self, console: Console, study: Study, *, more: int | None, until: int | None
    ) -> None:
        self.ran = self.lost = 0
        self._console = console
        self._until = until
        self._total = more if until is None else until
        self._seconds = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(
            "first trial",
            total=self._total,
            completed=0 if until is None else len(finished_trials(study)),
            left="",
        )

    def __enter__(self) -> TrialProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Show a trial that has just ended."""
        self.ran += 1
        self.lost += trial.state == TrialState.FAIL
        self._seconds += trial.duration.total_seconds() if trial.duration is not None else 0.0
        done = self.ran if self._until is None else len(finished_trials(study))
        left = ""
        if self._total is not None and done < self._total:
            left = f"{duration((self._total - done) * self._seconds / self.ran)} left"

        score = f"val_bpb {trial.value:.4f}" if is_scored(trial) else ""
        try:
            leader = best(study)
            standing = f"best {leader.value:.4f} (trial {leader.number})"
        except ValueError:
            standing = "no score yet"
        text = "  ".join(
            filter(None, [f"trial {trial.number}", outcome_of(trial), score, standing])
        )
        reason = trial.user_attrs.get(REASON_KEY)

        self._bar.update(self._task, description=text, completed=done, left=left)
        if not self._console.is_terminal:
            count = f"{done}/{self._total}" if self._total is not None else f"{done}"
            self._line("  ".join(filter(None, [f"[{count}]", text, left])))
        if reason is not None:
            self._line(f"  trial {trial.number}: {reason}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
