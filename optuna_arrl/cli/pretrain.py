"""`arrl pretrain`: make the policy that studies begin with."""

from __future__ import annotations

from dataclasses import asdict
import json
from pathlib import Path

import click

from optuna_arrl._version import __version__


__all__ = ["pretrain"]

_CHECKPOINT_EVERY = 5  # iterations
_MARKS = (12, 25, 50, 100, 300)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--iterations", default=200, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N")
@click.option(
    "--check",
    "tasks",
    type=click.IntRange(min=2),
    help="Do not train: compare FOLDER/policy.safetensors with the acquisition alone on so many "
    "fresh tasks.",
)
@click.option(
    "--trials", default=100, show_default=True, type=click.IntRange(min=12), help="With --check."
)
def pretrain(
    folder: Path, iterations: int, seed: int, device: str, tasks: int | None, trials: int
) -> None:
    """Train a policy on random tasks into FOLDER.

    Interrupted, the same line goes on from the last checkpoint; the warm-up, a fifth of the
    iterations by default, has none and begins again. The result,
    FOLDER/policy.safetensors, is for `ARRLSampler(policy=...)`; beside it stand the recipe and a
    log with one line an iteration.
    """
    if tasks is not None:
        _check(folder, tasks, trials, seed, device)
        return
    from safetensors.torch import save_file

    from optuna_arrl.sampler.pretraining.training import Recipe
    from optuna_arrl.sampler.pretraining.training import Training

    recipe = Recipe(seed=seed, iterations=iterations)
    training = Training(recipe, device)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    if checkpoint.exists():
        try:
            training.resume(checkpoint.read_bytes())
        except ValueError as error:
            raise click.ClickException(f"{checkpoint}: {error}") from error
        lines = log.read_text().splitlines(keepends=True)[: training.iteration]
        log.write_text("".join(lines))
        click.echo(f"going on after iteration {training.iteration}")
    else:
        log.unlink(missing_ok=True)
    for figures in training:
        with log.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        click.echo(json.dumps(figures))
        due = training.iteration % _CHECKPOINT_EVERY == 0 or training.iteration == iterations
        if due and not training.warming:
            partial = checkpoint.with_suffix(".part")
            partial.write_bytes(training.checkpoint())
            partial.replace(checkpoint)
    weights = {name: w.cpu().contiguous() for name, w in training.network.state_dict().items()}
    save_file(weights, folder / "policy.safetensors")
    made = {"package": __version__, "device": device, **asdict(recipe)}
    (folder / "recipe.json").write_text(json.dumps(made, indent=1) + "\n")


def _check(folder: Path, tasks: int, trials: int, seed: int, device: str) -> None:
    from safetensors.torch import load_file
    import torch

    from optuna_arrl.sampler.policy import PolicyNetwork
    from optuna_arrl.sampler.pretraining.checking import compare
    from optuna_arrl.sampler.pretraining.checking import summarise

    path = folder / "policy.safetensors"
    if not path.exists():
        raise click.ClickException(f"There is no {path}: train it first.")
    network = PolicyNetwork()
    network.load_state_dict(load_file(path))
    network, acquisition = network.to(device), PolicyNetwork().to(device)
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
