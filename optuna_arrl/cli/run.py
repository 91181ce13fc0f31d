"""`arrl run`: start a study, or go on with it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
import shlex
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from optuna_arrl.cli._study import bad_input
from optuna_arrl.cli._study import BadInput
from optuna_arrl.cli._study import command_line
from optuna_arrl.cli._study import find_storage
from optuna_arrl.cli._study import open_storage
from optuna_arrl.cli._study import shown_url
from optuna_arrl.cli._study import study_names
from optuna_arrl.cli._study import study_options


if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from optuna_arrl.cli._progress import TrialProgress
    from optuna_arrl.objective.objective import TrainScriptObjective


__all__ = ["run"]

_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_SAMPLERS = ("arrl", "tpe", "cmaes", "gp", "random")
# What a sampler needs beyond the package's own dependencies.
_NEEDS = {"cmaes": "cmaes", "gp": "scipy"}

_EPILOG = """
\b
Examples:
  arrl run                         the script that comes with the package, until converged
  arrl run --until 24              until the study holds 24 finished trials; again: what is missing
  arrl run train.py --trials 10    10 trials more, whatever the stop rules say
  arrl run --activate NAME         search a literal of that name too
  arrl run --sampler tpe --study rival --trials 24

Trial 0 is the unmodified script: the baseline. Ctrl-C stops at once and loses nothing that is
finished; the same command goes on. Two runs on one storage share a study.
"""


@click.command(epilog=_EPILOG)
@click.argument(
    "target",
    required=False,
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
)
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Run N more trials.")
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run until the study holds N finished trials.  [default: until it has converged]",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Training time of a trial.  [default: the profile's]",
)
@click.option(
    "--profile",
    type=click.Choice(["cpu", "gpu"]),
    help="Sizes and budget.  [default: gpu where there is one]",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of .txt files to train on.  [default: State of the Union addresses]",
)
@click.option(
    "--activate",
    multiple=True,
    metavar="NAME",
    help="Search the literal NAME of `arrl slots` too; may be given more than once.",
)
@click.option(
    "--sandbox",
    type=click.Choice(["auto", "bubblewrap", "landlock", "none"]),
    default="auto",
    show_default=True,
    help="What keeps edits from the machine; none is for scripts that you would run yourself.",
)
@click.option(
    "--sampler",
    "sampler_name",
    type=click.Choice(_SAMPLERS),
    default="arrl",
    show_default=True,
    help="Who chooses the edits.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    metavar="S",
    help="Seed of the sampler.  [default: drawn once per study]",
)
@study_options
@click.pass_context
def run(
    ctx: click.Context,
    target: Path | None,
    trials: int | None,
    until: int | None,
    budget: float | None,
    profile: str | None,
    corpus: Path | None,
    activate: tuple[str, ...],
    sandbox: str,
    sampler_name: str,
    seed: int | None,
    storage_url: str,
    study_name: str | None,
) -> None:
    """Search for better edits of TARGET, a training script.

    Every trial edits the script, trains it under the budget in a box of its own, and scores what
    it learnt, in bits per byte of unseen text (val_bpb, less is better).
    """
    from rich.console import Console

    from optuna_arrl.cli import _progress
    from optuna_arrl.objective.manifest import ManifestMismatch

    if trials is not None and until is not None:
        raise BadInput("Give --trials or --until, not both.")
    console = Console()
    objective: TrainScriptObjective | None = None
    progress: TrialProgress | None = None
    interrupted = False
    fault = None
    try:
        _tone_down()
        _check_packages(sampler_name)
        objective = make_objective(
            target,
            profile=profile,
            budget_seconds=budget,
            activate=activate,
            corpus=corpus,
            sandbox=sandbox,
        )
        storage = find_storage(storage_url)
        if study_name is None:
            study_name = "arrl" if target is None else target.stem
            study_name = _study_of(storage, objective) or study_name
        _check_directions(storage, study_name)
        # All that may refuse comes before the study: one without a trial would be in the way of
        # the next.
        with console.status("preparing the frozen environment"):
            _get_ready(objective)
        study = _create_study(storage_url, study_name)
        study.sampler = make_sampler(sampler_name, seed, begun=len(study.trials))
        with bad_input(ManifestMismatch, OSError):
            objective.enqueue_baseline(study)
        progress = _progress.TrialProgress(console, study, more=trials, until=until)
        fault = _optimize(console, study, objective, progress, trials=trials, until=until)
    except KeyboardInterrupt:
        interrupted = True
    if objective is not None:
        objective.close()
    if progress is not None and objective is not None:
        if progress.ran:
            try:
                _learn(console, study)
                _draw(console, study)
            except KeyboardInterrupt:  # the next run does both
                interrupted = True
        _summarise(console, study, objective, storage_url)
    if interrupted:
        ran = progress.ran if progress is not None else 0
        if trials is not None and ran >= trials:
            console.print("Stopped after the last trial; nothing is lost.")
        else:
            console.print("Stopped. Nothing finished is lost; this goes on from here:")
            _say(console, f"  {_resume_line(ctx, ran)}")
        ctx.exit(_EXIT_INTERRUPTED)
    if fault is not None:
        raise click.ClickException(fault)


def make_sampler(name: str, seed: int | None, *, begun: int) -> BaseSampler:
    """Return the sampler that ``--sampler`` names.

    Args:
        name:
            One of the names on the command line.
        seed:
            Its seed, or :obj:`None`.
        begun:
            Trials that the study holds already.
    """
    import numpy as np
    import optuna

    if name == "arrl":
        from optuna_arrl.sampler import ARRLSampler

        return ARRLSampler(seed=seed)
    # Optuna's samplers keep no state in the study: with its first seed, one that goes on would
    # draw the study's first edits again.
    if seed is not None and begun:
        seed = int(np.random.SeedSequence([seed, begun]).generate_state(1)[0])
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _check_packages(sampler_name: str) -> None:
    package = _NEEDS.get(sampler_name)
    if package is not None and find_spec(package) is None:
        raise BadInput(
            f"--sampler {sampler_name} needs the package {package}: pip install {package}"
        )


def make_objective(
    target: Path | None,
    *,
    profile: str | None,
    budget_seconds: float | None,
    activate: tuple[str, ...],
    corpus: Path | None,
    sandbox: str,
) -> TrainScriptObjective:
    """Return the objective for a target; what a user can get wrong about it is `BadInput`."""
    from optuna_arrl.objective.objective import TrainScriptObjective
    from optuna_arrl.objective.sandbox import SandboxUnavailable

    with bad_input(ValueError, OSError, SandboxUnavailable):
        objective = TrainScriptObjective(
            target,
            profile=profile,
            budget_seconds=budget_seconds,
            activate=activate,
            corpus=corpus,
            sandbox=sandbox,
        )
    if not objective.script.active:
        raise BadInput(
            f"{objective.target} has nothing to search: mark a literal with an `# arrl:` comment, "
            "or name one with --activate."
        )
    return objective


def _tone_down() -> None:
    """Leave the terminal to the progress bar: what Optuna logs of each trial, we show."""
    import logging
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Ctrl-C within a trial is logged here as a warning, with a traceback.
    logging.getLogger("optuna.study._optimize").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _create_study(storage_url: str, name: str) -> Study:
    import optuna

    return optuna.create_study(
        study_name=name,
        storage=open_storage(storage_url, create=True),
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),  # Optuna's default would judge by training curves
    )


def _check_directions(storage: BaseStorage | None, name: str) -> None:
    from optuna.study import StudyDirection

    if storage is None or name not in study_names(storage):
        return
    study_id = storage.get_study_id_from_name(name)
    if storage.get_study_directions(study_id) != [StudyDirection.MINIMIZE]:
        raise BadInput(
            f"Study '{name}' does not minimise one value as val_bpb needs: "
            "start another one with --study NAME."
        )


def _study_of(storage: BaseStorage | None, objective: TrainScriptObjective) -> str | None:
    """Return the name of the only study in a storage, if it edits the same script."""
    from hashlib import sha256

    from optuna_arrl.trajectory import MANIFEST_KEY

    names = study_names(storage) if storage is not None else []
    if storage is None or len(names) != 1:
        return None
    attrs = storage.get_study_system_attrs(storage.get_study_id_from_name(names[0]))
    edited = attrs.get(MANIFEST_KEY, {}).get("target")
    here = sha256(objective.script.source.encode()).hexdigest()
    return names[0] if edited in (None, here) else None


def _get_ready(objective: TrainScriptObjective) -> None:
    from optuna_arrl.frozen_env.corpus import CorpusError
    from optuna_arrl.frozen_env.prepare import FrozenSetChanged
    from optuna_arrl.objective.boxes import MachineFault
    from optuna_arrl.objective.sandbox import SandboxUnavailable

    try:
        with bad_input(CorpusError, FrozenSetChanged, SandboxUnavailable, OSError):
            objective.get_ready()
    except MachineFault as fault:
        raise click.ClickException(
            f"The machine failed before the first trial: {fault}."
        ) from fault


def _optimize(
    console: Console,
    study: Study,
    objective: TrainScriptObjective,
    progress: TrialProgress,
    *,
    trials: int | None,
    until: int | None,
) -> str | None:
    """Run trials until there are enough; return a sentence when the machine prevents it."""
    from optuna_arrl.figures import save_figures
    from optuna_arrl.objective.boxes import MachineFault
    from optuna_arrl.objective.manifest import ManifestMismatch
    from optuna_arrl.oracle import MaxTrials
    from optuna_arrl.oracle import TerminationOracle

    callbacks: list[Callable[[Study, FrozenTrial], None]] = [progress, save_figures]
    evidence = None
    if trials is None:
        oracle = TerminationOracle([MaxTrials(until)] if until is not None else None)
        callbacks.append(oracle)
        evidence = oracle.evidence(study)
        if evidence is not None:
            oracle.record(study, evidence)
    if evidence is None:
        try:
            with progress, bad_input(ManifestMismatch):
                study.optimize(objective, n_trials=trials, callbacks=callbacks)
        except RuntimeError as error:
            if isinstance(error.__cause__, MachineFault):
                return str(error)
            raise
        evidence = oracle.evidence(study) if trials is None else None
    if evidence is not None:
        _say(console, evidence.message)
    if progress.ran and progress.ran == progress.lost:
        return "The machine failed every trial: see above, and `arrl doctor`, then run again."
    return None


def _learn(console: Console, study: Study) -> None:
    """Let the policy learn from the trials since its last batch, so that nothing is lost."""
    from optuna_arrl.sampler import ARRLSampler

    if isinstance(study.sampler, ARRLSampler):
        with console.status("learning from the last trials"):
            study.sampler.learn(study)


def _draw(console: Console, study: Study) -> None:
    """Bring the figures on the study's page up to its last trial."""
    from optuna_arrl.figures import save_figures

    with console.status("drawing the study's figures"):
        save_figures(study)


def _summarise(
    console: Console, study: Study, objective: TrainScriptObjective, storage_url: str
) -> None:
    from optuna_arrl.cli._report import best_table
    from optuna_arrl.cli._report import print_diff
    from optuna_arrl.cli._report import score_line
    from optuna_arrl.noise import baseline
    from optuna_arrl.noise import best
    from optuna_arrl.objective.records import diff_path
    from optuna_arrl.script import unified_diff

    try:
        winner = best(study)
    except ValueError as error:
        _say(console, str(error))
        return
    console.print(best_table(study, objective.script))
    _say(console, f"Best: {score_line(winner, baseline(study))}")
    source = objective.script.source
    print_diff(
        console,
        unified_diff(source, objective.script.render(winner.params), diff_path(objective.target)),
    )
    console.print("To look further:")
    for command, purpose in [
        ("dashboard", "curves, diffs and artifacts in a browser"),
        ("status", "where the study stands"),
        ("best -o best.py", "take the best script"),
    ]:
        _say(console, f"  {command_line(command, storage_url, study):<40}  {purpose}")


def _resume_line(ctx: click.Context, ran: int) -> str:
    """Return the command line that goes on: as given, less the trials that are done."""
    words = ["arrl", "run"]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        given = ctx.params[name]
        if name == "trials":
            given -= ran
        elif name == "storage_url":
            given = shown_url(given)
        for value in given if isinstance(given, tuple) else (given,):
            words += (
                [str(value)]
                if isinstance(parameter, click.Argument)
                else [
                    parameter.opts[0],
                    str(value),
                ]
            )
    return shlex.join(words)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
