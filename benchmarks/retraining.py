"""Scores trained anew, as the shipped ones were, and its rivals: with a part left out.

    python -m benchmarks.retraining FOLDER whole imitation ppo names trials process forecast
    python -m benchmarks.ablations run runs/ablations.jsonl --retrained FOLDER

All begin where the shipped policy's scores began (results/retrained/start.safetensors: how much
to explore and forecasts are learned, scores are zero), and take the recipe of `arrl pretrain`:
imitation, then PPO, each with its horizons, candidates, rates and number of studies. `whole
--seed 1` made the shipped scores; `imitation` and `ppo` are one of the two stages alone. What a
part tells is hidden while the network learns and while it is judged. (The layers that all begin
with have learned to forecast with every part in sight, "no forecast" included: only what is
learned from there on does without.) Interrupted, the same line goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Iterable
import copy
from dataclasses import dataclass
from dataclasses import replace
import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save_file
import torch
from torch import Tensor

from benchmarks._arguments import at_least
from benchmarks._arguments import folder
from optuna_arrl.sampler.policy import FEATURES
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.policy import PolicyOutput
from optuna_arrl.sampler.policy import SLOT_FEATURES
from optuna_arrl.sampler.policy import TRIAL_FEATURES
from optuna_arrl.sampler.pretraining.training import go_on
from optuna_arrl.sampler.pretraining.training import Recipe
from optuna_arrl.sampler.pretraining.training import train
from optuna_arrl.sampler.pretraining.training import Training


__all__ = ["VARIANTS", "Partial", "retrain", "retrained", "without_scores"]

_START = Path(__file__).parent / "results/retrained/start.safetensors"
_NO_SCALE = -50.0  # of the acquisition, as a logarithm: it has no say and gets no gradient

# What the Gaussian processes tell of a candidate, a state and a slot. Distances to trials are in
# their lengthscales too.
_OF_PROCESSES = (
    *("acquisition", "acquisition_rank", "improvement", "mean", "log_sd", "log_runs"),
    *("log_nearest", "nearest_loss", "nearest_failed", "log_nearest_failure", "log_incumbent"),
    *("stiffness", "log_lengthscale", "log_noise", "best_acquisition"),
)
_SLOPES = ("slope", "slope_known", "stiffness")


class Partial(PolicyNetwork):
    """A policy network that does not see all of a state.

    Args:
        change: What it sees of it.
    """

    def __init__(self, change: Callable[[PolicyInput], PolicyInput]) -> None:
        super().__init__()
        self._change = change

    def forward(self, inputs: PolicyInput) -> PolicyOutput:
        return super().forward(self._change(inputs))


def _everything(state: PolicyInput) -> PolicyInput:
    return state


def _without_names(state: PolicyInput) -> PolicyInput:
    slots = state.slots.clone()
    slots[..., [i for i, name in enumerate(SLOT_FEATURES) if name.startswith("family_")]] = 0.0
    slots[..., SLOT_FEATURES.index("family_unknown")] = 1.0
    return replace(state, slots=slots * state.slot_mask[..., None])


def _without_trials(state: PolicyInput) -> PolicyInput:
    return replace(state, trial_mask=torch.zeros_like(state.trial_mask))


def _without_processes(state: PolicyInput) -> PolicyInput:
    def blank(part: Tensor, names: tuple[str, ...], hidden: Iterable[str]) -> Tensor:
        part = part.clone()
        part[..., [names.index(name) for name in hidden]] = 0.0
        return part

    return replace(
        state,
        features=blank(state.features, FEATURES, _OF_PROCESSES),
        slots=blank(state.slots, SLOT_FEATURES, _SLOPES),
        trials=blank(state.trials, TRIAL_FEATURES, ("log_incumbent",)),
        forecast=torch.zeros_like(state.forecast),
        doubt=torch.zeros_like(state.doubt),
        distances=torch.zeros_like(state.distances),
    )


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        label: Its name in tables.
        change: What it sees of a state.
        forecast_coefficient: Weight of the likelihood of outcomes.
        acquisition: Whether the acquisition is part of its logits.
        imitation, ppo: Whether it goes through the stage.
    """

    label: str
    change: Callable[[PolicyInput], PolicyInput] = _everything
    forecast_coefficient: float = Recipe.forecast_coefficient
    acquisition: bool = True
    imitation: bool = True
    ppo: bool = True


VARIANTS = {
    "whole": Variant("scores trained anew"),
    "imitation": Variant("imitation only", ppo=False),
    "ppo": Variant("PPO only", imitation=False),
    "names": Variant("scores without names", _without_names),
    "trials": Variant("scores without trial tokens", _without_trials),
    "process": Variant("scores without a Gaussian process", _without_processes, acquisition=False),
    "forecast": Variant("scores without forecasts", forecast_coefficient=0.0),
}
"""Name → what is trained; file names in the folder."""


@torch.no_grad()
def without_scores(network: PolicyNetwork) -> PolicyNetwork:
    """Return a copy that scores by the acquisition alone, but explores as the network does."""
    copied = copy.deepcopy(network)
    for head in (copied.residual, copied.slot_effects):
        head.weight.zero_()
        head.bias.zero_()
    return copied


def _begin(variant: Variant) -> PolicyNetwork:
    network = Partial(variant.change)
    network.load_state_dict(load_file(_START))
    if not variant.acquisition:
        with torch.no_grad():
            network.log_scale.fill_(_NO_SCALE)
    return network


def retrain(name: str, folder: Path, recipe: Recipe) -> None:
    """Train a variant by its stages of a recipe and write ``FOLDER/NAME.safetensors``."""
    variant = VARIANTS[name]
    network = _begin(variant)
    recipe = replace(
        recipe,
        search_iterations=0,
        imitation_iterations=recipe.imitation_iterations if variant.imitation else 0,
        ppo_iterations=recipe.ppo_iterations if variant.ppo else 0,
        forecast_coefficient=variant.forecast_coefficient,
    )
    training = Training(recipe, start=network)
    files = folder / f"{name}.pt", folder / f"{name}.jsonl"
    go_on(training, *files)
    for figures in train(training, *files):
        print(name, json.dumps(figures), flush=True)
    weights = {part: weight.contiguous() for part, weight in network.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")


def retrained(folder: Path | None) -> dict[str, tuple[str, PolicyNetwork]]:
    """Return what a folder holds: label → digest of the weights and network."""
    found: dict[str, tuple[str, PolicyNetwork]] = {}
    for name, variant in VARIANTS.items():
        path = None if folder is None else folder / f"{name}.safetensors"
        if path is not None and path.exists():
            network = Partial(variant.change)
            try:
                network.load_state_dict(load_file(path))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise SystemExit(
                    f"{path} holds no weights of this release's network: train it again into "
                    "another folder."
                ) from error
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            found[variant.label] = (digest, network.eval().requires_grad_(False))
    return found


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=folder)
    parser.add_argument("variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--iterations", type=at_least(1), default=100, help="of each stage")
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.variants:
        recipe = Recipe(
            seed=args.seed,
            imitation_iterations=args.iterations,
            ppo_iterations=args.iterations,
        )
        try:
            retrain(name, args.folder, recipe)
        except ValueError as error:  # files of another recipe
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
