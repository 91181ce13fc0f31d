"""The policy: a small network that scores candidates, values the state, forecasts outcomes.

    logits = scale × relative log-acquisition + residual(candidate features, pooled set context)

The residual starts at zero, so an unlearned policy is the surrogate's acquisition, softened. The
same weights serve any search space: nothing depends on the number, order or meaning of slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.proposers import KINDS
from optuna_arrl.sampler.space import Array
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = [
    "EXPLORATION_FLOOR",
    "FEATURES",
    "PolicyInput",
    "PolicyNetwork",
    "PolicyOutput",
    "action_distribution",
    "candidate_features",
]

EXPLORATION_FLOOR = 0.02
"""Share of the draws that are uniform over the legal candidates, whatever the network says."""

FEATURES: tuple[str, ...] = (
    # of a candidate, by the surrogate
    "acquisition",
    "acquisition_rank",
    "improvement",
    "mean",
    "log_sd",
    "log_runs",
    # of a candidate among the trials
    "log_nearest",
    "nearest_loss",
    "nearest_failed",
    "log_nearest_failure",
    "log_incumbent",
    # of the edit
    "changed",
    "log_step",
    "parent_rank",
    "stiffness",
    *KINDS,
    # of the state, the same for all candidates
    "log_trials",
    "log_ran",
    "log_slots",
    "failure_rate",
    "success_rate",
    "log_stagnation",
    "log_lengthscale",
    "log_noise",
    "best_acquisition",
)
"""Names of the network's features, in their order; all are of order one."""

_NEVER = -1e9  # logit that a softmax makes nothing of
_RECENT = 16  # trials that the success rate looks back on


@dataclass(frozen=True, eq=False)
class PolicyInput:
    """What the network sees of a state; any leading (batch) dimensions.

    Attributes:
        features: (..., C, F) float32, F = len(FEATURES).
        acquisition: (..., C) float32, log-acquisition less that of the best candidate that is
            not `floor_only`, in [-15, 0].
        forecast: (..., C, 3) float32, the surrogate's own forecast: mean and log sd of the warped
            loss as it would be measured, log-odds that the trial does not run.
        mask: (..., C) bool, True where a candidate is legal.
        floor_only: (..., C) bool, True where only the exploration floor draws a candidate: a draw
            from the whole space while there are edits of a trial that ran.
    """

    features: Tensor
    acquisition: Tensor
    forecast: Tensor
    mask: Tensor
    floor_only: Tensor

    @staticmethod
    def stack(inputs: Sequence[PolicyInput]) -> PolicyInput:
        """Return a batch of single states; smaller ones are padded with masked candidates."""
        most = max(len(x.mask) for x in inputs)

        def padded(name: str) -> Tensor:
            columns: list[Tensor] = [getattr(x, name) for x in inputs]
            shape = (len(columns), most, *columns[0].shape[1:])
            batch = torch.zeros(shape, dtype=columns[0].dtype)
            for row, column in zip(batch, columns, strict=True):
                row[: len(column)] = column
            return batch

        return PolicyInput(**{field.name: padded(field.name) for field in fields(PolicyInput)})

    def __getitem__(self, rows: Tensor) -> PolicyInput:
        """Return the states `rows` of a batch."""
        return PolicyInput(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )


class PolicyOutput(NamedTuple):
    """What the network says of a state.

    Attributes:
        logits: (..., C), unmasked, -1e9 where `floor_only`.
        value: (...), estimate of the discounted sum of rewards.
        score_mean, score_log_sd: (..., C), forecast of the warped loss of a trial that runs.
        crash_logit: (..., C), log-odds that the trial does not run.
    """

    logits: Tensor
    value: Tensor
    score_mean: Tensor
    score_log_sd: Tensor
    crash_logit: Tensor


def candidate_features(
    history: History, candidates: Candidates, surrogate: Surrogate
) -> PolicyInput:
    """Return the network's input for one state, all candidates legal.

    Args:
        history: What `candidates` were drawn from.
        candidates: C edits.
        surrogate: Fitted to the same history.
    """
    count, space = len(candidates), history.space
    mean, sd, p_runs = surrogate.predict(candidates.points)
    acquisition = surrogate.log_acquisition(candidates.points)
    # Where little is known expected improvement grows with distance, so that draws from the whole
    # space would win; but a step from a trial that ran is the better bet.
    edits = candidates.parents >= 0
    floor_only = ~edits & edits.any()
    relative = np.clip(acquisition - acquisition[~floor_only].max(), -15.0, 0.0)
    columns = {
        "acquisition": relative / 5.0,
        "acquisition_rank": acquisition.argsort().argsort() / count,
        "improvement": np.clip((surrogate.best - mean) / sd, -8.0, 8.0) / 3.0,
        "mean": mean,
        "log_sd": np.log(sd),
        "log_runs": np.log(np.maximum(p_runs, 1e-4)) / 2.0,
        **_among_trials(history, candidates, surrogate),
        **_of_edit(history, candidates, surrogate),
        **{name: 1.0 * (candidates.kinds == kind) for kind, name in enumerate(KINDS)},
        "log_trials": np.log1p(len(history)) / 3.0,
        "log_ran": np.log1p(len(history.ranking)) / 3.0,
        "log_slots": np.log1p(space.movable.sum()) / 2.0,
        "failure_rate": 1.0 - history.ran.mean() if len(history) else 0.0,
        **_progress(history),
        "log_lengthscale": surrogate.log_lengthscales[space.movable].mean()
        if space.movable.any()
        else 0.0,
        "log_noise": surrogate.log_noise / 3.0,
        "best_acquisition": acquisition.max() / 3.0,
    }
    features = np.stack([np.broadcast_to(columns[name], count) for name in FEATURES], axis=-1)
    measured = np.sqrt(sd**2 + math.exp(surrogate.log_noise))
    odds = np.clip(p_runs, 1e-4, 1.0 - 1e-4)
    forecast = np.stack([mean, np.log(measured), np.log1p(-odds) - np.log(odds)], axis=-1)
    return PolicyInput(
        torch.from_numpy(np.clip(features, -5.0, 5.0).astype(np.float32)),
        torch.from_numpy(relative.astype(np.float32)),
        torch.from_numpy(forecast.astype(np.float32)),
        torch.ones(count, dtype=torch.bool),
        torch.from_numpy(floor_only),
    )


def _among_trials(
    history: History, candidates: Candidates, surrogate: Surrogate
) -> dict[str, Array | float]:
    """Return where candidates lie among the trials the surrogate keeps, in lengthscales."""
    ran = history.ran[surrogate.trials]
    distances = surrogate.distances(candidates.points)
    if not len(ran):
        names = ("log_nearest", "nearest_loss", "nearest_failed")
        return {**dict.fromkeys((*names, "log_nearest_failure", "log_incumbent"), 0.0)}
    nearest = distances.argmin(axis=1)
    failures = distances[:, ~ran].min(axis=1, initial=20.0)
    incumbent = (
        distances[:, np.flatnonzero(surrogate.trials == history.incumbent)[0]] if ran.any() else 0
    )
    return {
        "log_nearest": np.log(distances.min(axis=1) + 0.01) / 2.0,
        "nearest_loss": surrogate.warped[nearest],
        "nearest_failed": 1.0 * ~ran[nearest],
        "log_nearest_failure": np.log(failures + 0.01) / 2.0,
        "log_incumbent": np.log(incumbent + 0.01) / 2.0,
    }


def _of_edit(
    history: History, candidates: Candidates, surrogate: Surrogate
) -> dict[str, Array | float]:
    """Return how large edits are, of how good a parent, and in slots how stiff."""
    edits = candidates.parents >= 0
    rank = np.zeros(len(history), np.int64)
    rank[history.ranking] = np.arange(len(history.ranking))
    parent_rank = np.zeros(len(candidates))
    parent_rank[edits] = np.log1p(rank[candidates.parents[edits]])
    stiffness = np.zeros(len(candidates))
    if edits.any() and history.space.movable.any():
        moved = candidates.points[edits] - history.points[candidates.parents[edits]]
        slots = np.abs(moved) > 1e-8
        short = surrogate.log_lengthscales[history.space.movable].mean()
        relative = slots @ (short - surrogate.log_lengthscales)
        stiffness[edits] = relative / np.maximum(slots.sum(axis=1), 1)
    return {
        "changed": candidates.changed / 6.0,
        "log_step": np.log(candidates.step + 0.01) / 2.0,
        "parent_rank": parent_rank,
        "stiffness": stiffness,
    }


def _progress(history: History) -> dict[str, Array | float]:
    """Return how the search has gone lately."""
    if history.incumbent is None:
        return {"success_rate": 0.0, "log_stagnation": 0.0}
    losses = np.where(history.ran, history.losses, np.inf)
    before = np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]]))
    return {
        "success_rate": float((losses < before)[-_RECENT:].mean()),
        "log_stagnation": math.log1p(len(history) - 1 - history.incumbent) / 3.0,
    }


class PolicyNetwork(nn.Module):
    """Candidates as a set: each is scored on its own features and on the mean over all.

    About 20,000 weights. The initial ones are a function of the seed alone and leave torch's
    global generator untouched.

    Args:
        seed: Of the initial weights.
        width: Of every hidden layer.
        scale: Initial weight of the relative log-acquisition: the inverse temperature of the
            unlearned policy.
    """

    def __init__(self, seed: int = 0, width: int = 64, scale: float = 8.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Linear(len(FEATURES), width)
            self.mix = nn.Linear(2 * width, width)
            self.hidden = nn.Linear(width, width)
            self.residual = nn.Linear(width, 1)
            self.correction = nn.Linear(width, 3)
            self.value_hidden = nn.Linear(width, width)
            self.value = nn.Linear(width, 1)
        for head in (self.residual, self.correction, self.value):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, inputs: PolicyInput) -> PolicyOutput:
        """Return scores, value and forecast; masked candidates have no influence on others."""
        legal = inputs.mask[..., None].to(inputs.features.dtype)

        def pooled(x: Tensor) -> Tensor:
            return (x * legal).sum(-2) / legal.sum(-2).clamp(min=1.0)

        own = torch.relu(self.embed(inputs.features))
        context = pooled(own)[..., None, :].expand_as(own)
        mixed = torch.relu(self.mix(torch.cat([own, context], dim=-1)))
        hidden = torch.relu(self.hidden(mixed))
        logits = self.log_scale.exp() * inputs.acquisition + self.residual(hidden)[..., 0]
        logits = logits.masked_fill(inputs.floor_only, _NEVER)
        value = self.value(torch.relu(self.value_hidden(pooled(mixed))))[..., 0]
        forecast = inputs.forecast + self.correction(hidden)
        return PolicyOutput(logits, value, *forecast.unbind(-1))


def action_distribution(logits: Tensor, mask: Tensor, floor: float = EXPLORATION_FLOOR) -> Tensor:
    """Return log-probabilities of `(1 - floor) softmax + floor uniform` over legal candidates.

    Args:
        logits: (..., C).
        mask: (..., C) bool, at least one True in each row.
        floor: Share of the uniform part, in [0, 1).

    Returns:
        (..., C), -inf where masked.
    """
    log_softmax = torch.log_softmax(logits.masked_fill(~mask, _NEVER), dim=-1)
    log_uniform = -mask.sum(-1, keepdim=True).to(logits.dtype).log()
    mixture = log_softmax
    if floor > 0.0:
        mixture = torch.logaddexp(
            math.log1p(-floor) + log_softmax, math.log(floor) + log_uniform.expand_as(logits)
        )
    return mixture.masked_fill(~mask, -math.inf)
