"""The policy: a small network that scores candidates, values the state, forecasts outcomes.

    logits = scale × relative log-acquisition + Σ over moved slots + residual(candidate, state)

The acquisition is the surrogate's, but how much it explores is learned: its constants depend on
how the study goes. In an untrained network all learned parts are zero: it is the surrogate's
acquisition, softened.
The state is seen as tokens: one a slot (type, scale, name family, bounds, what the trials say of
its direction), one a trial (the 32 latest and the 8 best), one a candidate. The same weights
serve any search space: nothing depends on the number or order of slots.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
import math
from typing import NamedTuple

import torch
from torch import nn
from torch import Tensor

from optuna_arrl.sampler.families import FAMILIES
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.proposers import KINDS
from optuna_arrl.sampler.surrogate import kept_trials
from optuna_arrl.sampler.surrogate import log_acquisition
from optuna_arrl.sampler.surrogate import Prediction
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = [
    "EXPLORATION_FEATURES",
    "EXPLORATION_FLOOR",
    "FEATURES",
    "SHARPNESS",
    "SLOT_FEATURES",
    "TRIAL_FEATURES",
    "PolicyInput",
    "PolicyNetwork",
    "PolicyOutput",
    "action_distribution",
    "policy_input",
]

EXPLORATION_FLOOR = 0.02
"""Share of the draws that are uniform over the legal candidates, whatever the network says."""

SHARPNESS = 4.0
"""Inverse temperature at which a study draws: near the best logit, for trials are dear. Training
draws at 1, to see more of what it scores."""

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
"""Names of the features of a candidate token, in their order; all are of order one."""

SLOT_FEATURES: tuple[str, ...] = (
    "numeric",
    "integer",
    "logarithmic",
    "log_levels",
    "incumbent",  # unit values; 0 for choices
    "default",
    "from_default",
    "slope",  # of the value process at the incumbent, per lengthscale
    "slope_known",  # share of its prior variance that the trials explain
    "stiffness",
    "log_moved",  # trials that differ from the first one here
    "log_trials",
    "early",  # 1 / (1 + trials / 8)
    *(f"family_{name}" for name in FAMILIES),
)
"""Names of the features of a slot token."""

EXPLORATION_FEATURES: dict[str, tuple[float, float]] = {
    "log_trials": (1.0, 2.0),
    "log_slots": (1.2, 2.0),
    "log_noise": (-1.2, 2.0),
    "log_stagnation": (0.6, 2.0),
    "success_rate": (0.2, 4.0),
}
"""Of the features of a state, those that say how much to explore: what is taken off each, and what
it is multiplied by, so that it is about 0 and of order one."""

TRIAL_FEATURES: tuple[str, ...] = ("loss", "ran", "log_rank", "log_age", "log_incumbent")
"""Names of the features of a trial token."""

_NEVER = -1e9  # logit that a softmax makes nothing of
_RECENT = 16  # trials that the success rate looks back on
_BEST_TOKENS, _LATEST_TOKENS = 8, 32
_STILL = 1e-7  # a slot that moved less has not moved


@dataclass(frozen=True, eq=False)
class PolicyInput:
    """What the network sees of states; any leading (batch) dimensions. All float32 or bool.

    Attributes:
        features: (..., C, F), F = len(FEATURES).
        forecast: (..., C, 3), the surrogate's own forecast: mean and log sd of the warped loss
            without noise, log-odds that the trial does not run.
        aim: (..., 2), the warped loss to beat, and the logarithm of the noise variance of the
            warped losses.
        doubt: (..., C), by how much the mean moves with the prior's constant mean (Prediction).
        moves: (..., C, D), how far a candidate lies from the incumbent: unit values, for choices
            1 where it takes another.
        distances: (..., C, K), to the trials of the trial tokens, in lengthscales.
        mask: (..., C) bool, True where a candidate is legal.
        floor_only: (..., C) bool, True where only the exploration floor draws a candidate: a draw
            from the whole space while there are edits of a trial that ran.
        slots: (..., D, S), S = len(SLOT_FEATURES); 0 where a slot cannot move.
        slot_mask: (..., D) bool, True where a slot can move.
        trials: (..., K, T), T = len(TRIAL_FEATURES).
        trial_mask: (..., K) bool, False in padding.
    """

    features: Tensor
    forecast: Tensor
    aim: Tensor
    doubt: Tensor
    moves: Tensor
    distances: Tensor
    mask: Tensor
    floor_only: Tensor
    slots: Tensor
    slot_mask: Tensor
    trials: Tensor
    trial_mask: Tensor

    @staticmethod
    def cat(inputs: Sequence[PolicyInput]) -> PolicyInput:
        """Return several batches as one, padded with what their masks hide."""

        def joined(name: str) -> Tensor:
            parts: list[Tensor] = [getattr(x, name) for x in inputs]
            shape = [max(part.shape[d] for part in parts) for d in range(1, parts[0].dim())]
            whole = parts[0].new_zeros(sum(len(part) for part in parts), *shape)
            row = 0
            for part in parts:
                index = (slice(row, row + len(part)), *(slice(size) for size in part.shape[1:]))
                whole[index] = part
                row += len(part)
            return whole

        return PolicyInput(**{field.name: joined(field.name) for field in fields(PolicyInput)})

    def map(self, change: Callable[[Tensor], Tensor]) -> PolicyInput:
        """Return the input with every tensor changed."""
        return PolicyInput(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def __getitem__(self, rows: Tensor) -> PolicyInput:
        """Return the states `rows` of a batch."""
        return self.map(lambda part: part[rows])


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


def policy_input(
    history: History,
    candidates: Candidates,
    surrogate: Surrogate,
    prediction: Prediction | None = None,
) -> PolicyInput:
    """Return the network's input for the states of B studies.

    Args:
        history: What `candidates` were drawn from.
        candidates: C edits a study.
        surrogate: Fitted to the same history.
        prediction: The surrogate's for the candidates, where it is at hand.
    """
    if prediction is None:
        prediction = surrogate.predict(candidates.points)
    mean, sd, p_runs, distances, doubt = prediction
    acquisition = surrogate.log_acquisition(prediction)
    # Where little is known expected improvement grows with distance, so that draws from the whole
    # space would win; but a step from a trial that ran is the better bet.
    edits = (candidates.parents >= 0) & candidates.legal
    floor_only = ~edits & edits.any(1, keepdim=True)
    compared = candidates.legal & ~floor_only
    best = acquisition.masked_fill(~compared, -math.inf).amax(1, keepdim=True)
    relative = _relative(acquisition, compared)
    trials = kept_trials(history, _BEST_TOKENS, _LATEST_TOKENS)
    columns = {
        "acquisition": relative / 5.0,
        "acquisition_rank": _ranks(acquisition.masked_fill(~candidates.legal, -math.inf)),
        "improvement": ((surrogate.best - mean) / sd).clamp(-8.0, 8.0) / 3.0,
        "mean": mean,
        "log_sd": sd.log(),
        "log_runs": p_runs.clamp(min=1e-4).log() / 2.0,
        **_among_trials(history, surrogate, distances),
        **_of_edit(history, candidates, surrogate),
        **{name: 1.0 * (candidates.kinds == kind) for kind, name in enumerate(KINDS)},
        **_of_state(history, surrogate),
        "best_acquisition": best / 3.0,
    }
    features = torch.stack([columns[name].expand_as(mean) for name in FEATURES], -1)
    odds = p_runs.clamp(1e-4, 1.0 - 1e-4)
    place = torch.searchsorted(surrogate.trials.contiguous(), trials.contiguous())
    state = PolicyInput(
        features=features.clamp(-5.0, 5.0),
        forecast=torch.stack([mean, sd.log(), (1.0 - odds).log() - odds.log()], -1),
        aim=torch.cat([surrogate.best, surrogate.log_noise], 1),
        doubt=doubt,
        moves=_moves(history, candidates),
        distances=distances.gather(2, place[:, None].expand(-1, len(candidates), -1)).clamp(
            max=20
        ),
        mask=candidates.legal,
        floor_only=floor_only,
        slots=_slot_tokens(history, surrogate),
        slot_mask=history.cube.movable,
        trials=_trial_tokens(history, surrogate, trials),
        trial_mask=torch.ones_like(trials, dtype=torch.bool),
    )
    return state.map(lambda part: part if part.dtype == torch.bool else part.float())


def _ranks(values: Tensor) -> Tensor:
    """Return ranks (B, C) in [0, 1): 0 for the lowest."""
    return values.argsort(1).argsort(1) / values.shape[1]


def _incumbents(history: History) -> Tensor:
    """Return the points (B, 1, D) of the best trials; the first one's where none ran."""
    return history.at(history.ranking[:, :1])


def _moves(history: History, candidates: Candidates) -> Tensor:
    if not len(history):
        return torch.zeros_like(candidates.points)
    moves = candidates.points - _incumbents(history)
    moves = torch.where(moves.abs() > _STILL, moves, 0.0)
    return torch.where(history.cube.categorical[:, None], (moves != 0).to(moves), moves)


def _among_trials(history: History, surrogate: Surrogate, distances: Tensor) -> dict[str, Tensor]:
    """Return where candidates lie among the trials the surrogate keeps, in lengthscales."""
    names = ("log_nearest", "nearest_loss", "nearest_failed", "log_nearest_failure")
    if not len(history):
        return {**dict.fromkeys((*names, "log_incumbent"), distances.new_zeros(1))}
    ran = surrogate.ran
    near, nearest = distances.min(2)
    failures = distances.masked_fill(ran[:, None], 20.0).amin(2).clamp(max=20.0)
    incumbent = torch.searchsorted(
        surrogate.trials.contiguous(), history.ranking[:, :1].contiguous()
    )
    to_incumbent = distances.gather(2, incumbent[:, None].expand(-1, distances.shape[1], -1))
    far = torch.where(history.number_ran[:, None] > 0, to_incumbent[..., 0], 0.0)
    return {
        "log_nearest": (near + 0.01).log() / 2.0,
        "nearest_loss": surrogate.warped.gather(1, nearest),
        "nearest_failed": 1.0 * ~ran.gather(1, nearest),
        "log_nearest_failure": (failures + 0.01).log() / 2.0,
        "log_incumbent": (far + 0.01).log() / 2.0,
    }


def _of_edit(history: History, candidates: Candidates, surrogate: Surrogate) -> dict[str, Tensor]:
    """Return how large edits are, of how good a parent, and in slots how stiff."""
    cube, edits = history.cube, candidates.parents >= 0
    if not len(history):
        nothing = cube.dim[:, None] * 0.0
        names = ("parent_rank", "stiffness", "log_step")
        return {**dict.fromkeys(names, nothing), "changed": cube.dim[:, None] / 6.0}
    parents = candidates.parents.clamp(min=0)
    moves = (candidates.points - history.at(parents)).abs()
    moved = moves > _STILL
    number = moved.sum(2)
    step = torch.where(cube.numeric[:, None], moves, 0.0)
    step = torch.nn.functional.pad(step, (0, 1)).amax(2)  # a space may have no slot
    stiffness = (moved * _stiffness(history, surrogate)[:, None]).sum(2) / number.clamp(min=1)
    rank = history.ranks.gather(1, parents).to(step).log1p()
    return {
        "changed": torch.where(edits, number.to(step), cube.dim[:, None]) / 6.0,
        "log_step": (torch.where(edits, step, 1.0) + 0.01).log() / 2.0,
        "parent_rank": torch.where(edits, rank, 0.0),
        "stiffness": torch.where(edits, stiffness, 0.0),
    }


def _stiffness(history: History, surrogate: Surrogate) -> Tensor:
    """Return by how much shorter each lengthscale's logarithm is than the mean (B, D)."""
    movable, logs = history.cube.movable, surrogate.log_lengthscales
    mean = (logs * movable).sum(1, keepdim=True) / movable.sum(1, keepdim=True).clamp(min=1)
    return (mean - logs) * movable


def _of_state(history: History, surrogate: Surrogate) -> dict[str, Tensor]:
    """Return how far the search is and how it has gone lately, (B, 1) each."""
    dim = history.cube.dim[:, None]
    n = torch.full_like(dim, len(history))
    ran = history.number_ran[:, None].to(dim)
    logs = surrogate.log_lengthscales * history.cube.movable
    state = {
        "log_trials": n.log1p() / 3.0,
        "log_ran": ran.log1p() / 3.0,
        "log_slots": dim.log1p() / 2.0,
        "failure_rate": 1.0 - ran / n.clamp(min=1.0) if len(history) else 0.0 * n,
        "log_lengthscale": logs.sum(1, keepdim=True) / dim.clamp(min=1.0),
        "log_noise": surrogate.log_noise / 3.0,
        "success_rate": 0.0 * n,
        "log_stagnation": 0.0 * n,
    }
    if not len(history):
        return state
    losses = torch.where(history.ran, history.losses, math.inf)
    before = torch.cat([torch.full_like(losses[:, :1], math.inf), losses[:, :-1]], 1)
    better = losses < before.cummin(1).values
    since = len(history) - 1 - history.ranking[:, :1]
    some = ran > 0
    state["success_rate"] = better[:, -_RECENT:].to(dim).mean(1, keepdim=True) * some
    state["log_stagnation"] = since.to(dim).log1p() / 3.0 * some
    return state


def _slot_tokens(history: History, surrogate: Surrogate) -> Tensor:
    """Return what is known of every slot (B, D, S)."""
    cube, like = history.cube, history.points
    nothing = torch.zeros_like(cube.start)
    numeric = cube.numeric.to(like)
    n = torch.full_like(nothing, len(history))
    columns = {
        "numeric": numeric,
        "integer": cube.integer.to(like) * numeric,
        "logarithmic": cube.logarithmic.to(like) * numeric,
        "log_levels": cube.levels.to(like).log1p() / 3.0,
        "log_trials": n.log1p() / 3.0,
        "early": 1.0 / (1.0 + n / 8.0),
        "stiffness": _stiffness(history, surrogate),
        **dict.fromkeys(("incumbent", "default", "from_default"), nothing),
        **dict.fromkeys(("slope", "slope_known", "log_moved"), nothing),
        **{
            f"family_{name}": (cube.family == index).to(like)
            for index, name in enumerate(FAMILIES)
        },
    }
    if len(history):
        incumbent, default = _incumbents(history)[:, 0], history.points[:, 0]
        slope, explained = surrogate.slopes(incumbent)
        columns["incumbent"] = incumbent * numeric
        columns["default"] = default * numeric
        columns["from_default"] = (incumbent - default) * numeric
        columns["slope"], columns["slope_known"] = slope.clamp(-3.0, 3.0), explained
        away = (history.points - default[:, None]).abs() > _STILL
        columns["log_moved"] = away.sum(1).to(like).log1p() / 3.0
    tokens = torch.stack([columns[name] for name in SLOT_FEATURES], -1)
    return tokens.clamp(-5.0, 5.0) * cube.movable[..., None]


def _trial_tokens(history: History, surrogate: Surrogate, trials: Tensor) -> Tensor:
    """Return what is known of trials (B, K, T)."""
    like = history.points
    if not len(history):
        return like.new_zeros(len(history.cube), 0, len(TRIAL_FEATURES))
    place = torch.searchsorted(surrogate.trials.contiguous(), trials.contiguous())
    distances = surrogate.predict(_incumbents(history)).distances[:, 0].gather(1, place)
    columns = {
        "loss": surrogate.warped.gather(1, place),
        "ran": surrogate.ran.gather(1, place).to(like),
        "log_rank": history.ranks.gather(1, trials).to(like).log1p() / 3.0,
        "log_age": (len(history) - trials).to(like).log() / 3.0,
        "log_incumbent": (distances + 0.01).log() / 2.0,
    }
    return torch.stack([columns[name] for name in TRIAL_FEATURES], -1).clamp(-5.0, 5.0)


def _relative(acquisition: Tensor, compared: Tensor) -> Tensor:
    """Return log-acquisitions less the largest of those `compared`, in [-15, 0]."""
    best = acquisition.masked_fill(~compared, -math.inf).amax(-1, keepdim=True)
    return (acquisition - best).clamp(-15.0, 0.0)


class Exploration(nn.Module):
    """How much a study explores: the acquisition's constants, from how the study goes.

    A linear function; at zero, as it begins, the constants are the surrogate's own.

    Attributes:
        weight: (4, K), K = 1 + len(EXPLORATION_FEATURES), the first column the constant. Any
            leading dimensions, those of the states, give every state weights of its own.
    """

    # How far a weight of one goes: the logarithms of ξ, of the width and of the scale, and the
    # pessimism in sd of the warped losses.
    _UNITS = (0.8, 0.25, 0.7, 0.3)
    _MOST = 3.0  # units

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 1 + len(EXPLORATION_FEATURES)))

    def forward(self, inputs: PolicyInput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return factors of ξ, of the width and of the scale, and what is added to the
        pessimism; (..., 1) each.
        """
        state = torch.stack(
            [
                (inputs.features[..., 0, FEATURES.index(name)] - middle) * slope
                for name, (middle, slope) in EXPLORATION_FEATURES.items()
            ],
            -1,
        )
        state = torch.cat([torch.ones_like(state[..., :1]), state], -1)
        units = (self.weight * state[..., None, :]).sum(-1)
        units = self._MOST * torch.tanh(units / self._MOST)
        amounts = units * torch.tensor(self._UNITS).to(units)
        xi, wider, scale, pessimism = (amount[..., None] for amount in amounts.unbind(-1))
        return xi.exp(), wider.exp(), scale.exp(), pessimism


class PolicyNetwork(nn.Module):
    """Candidates, slots and trials as sets of tokens.

    The initial weights are a function of the seed alone and leave torch's global generator
    untouched.

    Args:
        seed: Of the initial weights.
        width: Of every hidden layer of the candidates; slots and trials have half of it.
        heads: Of the attention from candidates to trials.
        scale: Initial weight of the relative log-acquisition: the inverse temperature of the
            unlearned policy.
    """

    def __init__(self, seed: int = 0, width: int = 64, heads: int = 2, scale: float = 4.0) -> None:
        super().__init__()
        half = width // 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Linear(len(FEATURES), width)
            self.embed_slot = nn.Linear(len(SLOT_FEATURES), half)
            self.mix_slot = nn.Linear(2 * half, half)
            self.slot_effects = nn.Linear(half, 3)
            self.embed_trial = nn.Linear(len(TRIAL_FEATURES), half)
            self.query = nn.Linear(width, half)
            self.key = nn.Linear(half, half)
            self.mix = nn.Linear(width + half + 1, width)
            self.mix_state = nn.Linear(width + half, width, bias=False)
            self.hidden = nn.Linear(width, width)
            self.residual = nn.Linear(width, 1)
            self.correction = nn.Linear(width, 3)
            self.value_hidden = nn.Linear(width, width)
            self.value = nn.Linear(width, 1)
        for head in (self.slot_effects, self.residual, self.correction, self.value):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.heads = heads
        self.log_reach = nn.Parameter(torch.linspace(-1.0, 1.0, heads))
        self.exploration = Exploration()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, inputs: PolicyInput) -> PolicyOutput:
        """Return scores, value and forecast; what is masked has no influence on the rest."""
        own = torch.relu(self.embed(inputs.features))
        trend, slots = self._slots(inputs)
        around = self._attend(own, inputs)
        state = self.mix_state(torch.cat([_pooled(own, inputs.mask), slots], -1))
        mixed = self.mix(torch.cat([own, around, trend[..., None]], -1))
        mixed = torch.relu(mixed + state[..., None, :])
        hidden = torch.relu(self.hidden(mixed))
        mean, log_sd, crash_logit = inputs.forecast.unbind(-1)
        xi, wider, scale, pessimism = self.exploration(inputs)
        own = log_acquisition(
            inputs.aim[..., :1],
            mean + pessimism * inputs.doubt,
            log_sd.exp(),
            torch.sigmoid(-crash_logit),
            xi,
            wider,
        )
        acquisition = _relative(own, inputs.mask & ~inputs.floor_only)
        logits = self.log_scale.exp() * scale * acquisition
        logits = logits + trend + self.residual(hidden)[..., 0]
        logits = logits.masked_fill(inputs.floor_only, _NEVER)
        value = torch.relu(self.value_hidden(_pooled(mixed, inputs.mask)))
        log_noise = inputs.aim[..., 1:].expand_as(log_sd)
        measured = 0.5 * torch.logaddexp(2.0 * log_sd, log_noise)
        forecast = torch.stack([mean, measured, crash_logit], -1)
        forecast = forecast + self.correction(hidden)
        return PolicyOutput(logits, self.value(value)[..., 0], *forecast.unbind(-1))

    def _slots(self, inputs: PolicyInput) -> tuple[Tensor, Tensor]:
        """Return the sum of the moved slots' effects (..., C), and the mean of the slots.

        A slot's effect on the logit is a d + b |d| + c [d ≠ 0] for a move d from the incumbent
        (of choices c alone), with a, b and c from its token: an opinion on which way to go.
        """
        own = torch.relu(self.embed_slot(inputs.slots))
        context = _pooled(own, inputs.slot_mask)[..., None, :].expand_as(own)
        mixed = torch.relu(self.mix_slot(torch.cat([own, context], -1)))
        effects = self.slot_effects(mixed) * inputs.slot_mask[..., None]
        numeric = inputs.slots[..., SLOT_FEATURES.index("numeric")]
        directed, sized, moved = effects.unbind(-1)
        moves = inputs.moves
        trend = (moves @ (directed * numeric)[..., None])[..., 0]
        trend = trend + (moves.abs() @ (sized * numeric)[..., None])[..., 0]
        trend = trend + ((moves != 0).to(moves) @ moved[..., None])[..., 0]
        return trend, _pooled(mixed, inputs.slot_mask)

    def _attend(self, own: Tensor, inputs: PolicyInput) -> Tensor:
        """Return what candidates (..., C, width) read from the trials near them (..., C, half).

        Head h weighs trial t by softmax(q · k - d² / reach²): by likeness and by distance.
        """
        if inputs.trials.shape[-2] == 0:
            return own.new_zeros(*own.shape[:-1], self.query.out_features)
        tokens = torch.relu(self.embed_trial(inputs.trials))

        def split(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-2, -3)

        query, key, values = split(self.query(own)), split(self.key(tokens)), split(tokens)
        likeness = query @ key.mT / math.sqrt(query.shape[-1])
        reach = torch.exp(-2.0 * self.log_reach)[:, None, None]
        score = likeness - reach * inputs.distances.square()[..., None, :, :]
        score = score.masked_fill(~inputs.trial_mask[..., None, None, :], _NEVER)
        read = torch.softmax(score, -1) @ values
        return read.transpose(-2, -3).flatten(-2) * inputs.trial_mask.any(-1)[..., None, None]


def _pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (..., width) of the tokens (..., m, width) that are not masked."""
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(-2) / weight.sum(-2).clamp(min=1.0)


def action_distribution(
    logits: Tensor,
    mask: Tensor,
    floor: float = EXPLORATION_FLOOR,
    sharpness: float = SHARPNESS,
) -> Tensor:
    """Return log-probabilities of `(1 - floor) softmax + floor uniform` over legal candidates.

    Args:
        logits: (..., C).
        mask: (..., C) bool, at least one True in each row.
        floor: Share of the uniform part, in [0, 1).
        sharpness: Inverse temperature of the softmax.

    Returns:
        (..., C), -inf where masked.
    """
    log_softmax = torch.log_softmax((sharpness * logits).masked_fill(~mask, _NEVER), dim=-1)
    log_uniform = -mask.sum(-1, keepdim=True).to(logits.dtype).log()
    mixture = log_softmax
    if floor > 0.0:
        mixture = torch.logaddexp(
            math.log1p(-floor) + log_softmax, math.log(floor) + log_uniform.expand_as(logits)
        )
    return mixture.masked_fill(~mask, -math.inf)
