"""`arrl pretrain`: make the policy that studies begin with."""

from __future__ import annotations

from dataclasses import asdict
import json
from pathlib import Path

import click

from optuna_arrl._version import __version__
from optuna_arrl.cli._study import bad_input
from optuna_arrl.cli._study import BadInput


__all__ = ["pretrain"]

# Of the iterations; PPO has the rest.
_SEARCH_SHARE, _IMITATION_SHARE = 3 / 7, 2 / 7
_MARKS = (12, 25, 50, 100, 300)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--iterations", default=350, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N")
@click.option(
    "--check",
    "tasks",
    type=click.IntRange(min=2),
    help="Do not train: compare FOLDER/policy.safetensors with the acquisition alone on so many "
    "fresh tasks; of each 192 a third are real runs, the others random surfaces.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=12),
    help="Of each study that --check plays.  [default: 100]",
)
def pretrain(
    folder: Path, iterations: int, seed: int, device: str, tasks: int | None, trials: int | None
) -> None:
    """Train a policy on random tasks into FOLDER.

    The first three of seven iterations search how much to explore, the next two learn scores from
    the best next steps, the last two by PPO.
    Interrupted, the same line goes on from the last checkpoint. The result,
    FOLDER/policy.safetensors, is for `ARRLSampler(policy=...)`; beside it stand the recipe and a
    log with one line an iteration.
    """
    _try_device(device)
    if tasks is not None:
        _check(folder, tasks, trials or 100, seed, device)
        return
    if trials is not None:
        raise BadInput("--trials is for --check: a training's studies grow by its recipe.")
    from safetensors.torch import save_file

    from optuna_arrl.sampler.pretraining.training import go_on
    from optuna_arrl.sampler.pretraining.training import Recipe
    from optuna_arrl.sampler.pretraining.training import train
    from optuna_arrl.sampler.pretraining.training import Training

    search, imitation = (round(share * iterations) for share in (_SEARCH_SHARE, _IMITATION_SHARE))
    recipe = Recipe(
        seed=seed,
        search_iterations=search,
        imitation_iterations=imitation,
        ppo_iterations=iterations - search - imitation,
    )
    training = Training(recipe, device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be made ({error.strerror}): name a folder of yours."
        ) from error
    files = folder / "checkpoint.pt", folder / "log.jsonl"
    with bad_input(ValueError):
        go_on(training, *files)
    if training.iteration:
        click.echo(f"going on after iteration {training.iteration}")
    for figures in train(training, *files):
        click.echo(json.dumps(figures))
    weights = {name: w.cpu().contiguous() for name, w in training.network.state_dict().items()}
    save_file(weights, folder / "policy.safetensors")
    made = {"package": __version__, "device": device, **asdict(recipe)}
    (folder / "recipe.json").write_text(json.dumps(made, indent=1) + "\n")


def _try_device(name: str) -> None:
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        said = str(error).splitlines()[0].rstrip(".")
        raise BadInput(
            f"Torch cannot compute on device {name!r} here: {said}. Use --device cpu."
        ) from error


def _check(folder: Path, tasks: int, trials: int, seed: int, device: str) -> None:
    import torch

    from optuna_arrl.sampler.learner import shipped_policy
    from optuna_arrl.sampler.policy import PolicyNetwork
    from optuna_arrl.sampler.pretraining.checking import compare
    from optuna_arrl.sampler.pretraining.checking import highest_seed
    from optuna_arrl.sampler.pretraining.checking import summarise

    path = folder / "policy.safetensors"
    if not path.exists():
        raise BadInput(f"There is no {path}: train it first.")
    if seed > (highest := highest_seed(tasks)):
        raise BadInput(
            f"--seed {seed} gives tasks to learn on, not to judge by: with --check {tasks} it may "
            f"be {highest} at most."
        )
    with bad_input(ValueError):
        trained = shipped_policy(path).network
    network, acquisition = trained.to(device), PolicyNetwork().to(device)
    lots: list[torch.Tensor] = []
    marks = [mark for mark in _MARKS if mark <= trials]
    for lot in compare(network, acquisition, tasks=tasks, trials=trials, seed=seed):
        lots.append(lot.cpu())
        rows = summarise(torch.cat(lots), marks)
        click.echo(f"after {rows[0].tasks} of {tasks} tasks")
    click.echo("trials  log regret, network less acquisition      p   ahead")
    for row in rows:
        click.echo(
            f"{row.trials:>6}  {row.mean:+.4f} ± {row.half_width:.4f} {row.p:>20.2g}"
            f"  {row.better:>5.0%}"
        )
    report = [asdict(row) for row in rows]
    (folder / f"check-{trials}.json").write_text(json.dumps(report, indent=1) + "\n")
