"""Tasks on random surfaces: thousands side by side as tensors, no named test function.

A task is a search space and a loss surface over its unit cube. The surface is a random mixture of
six families, each standardised over uniform points before it is mixed:

    waves       random Fourier features of heavy-tailed, often sparse frequencies
    bowl        |x - o|^p, partly in a few rotated directions: ridges and ill-conditioned valleys
    trade-off   two exponentials in sparse positive directions: too little against too much
    cliff       a steep sigmoid across a random plane
    additive    every number its own asymmetric bowl, every choice its own level
    script      training under a time budget: capacity against steps, learning rates whose best
                value moves with size and batch; the only family whose slots have names, in a
                quarter of the tasks those of each other

over slots of very unequal relevance, some of them counting only under one choice of another slot
(conditional), optima inside, at and beyond the bounds, some surfaces cut into steps and plateaus.
Crash regions are half-spaces and soft products, often down the slope: better is nearer to the
edge. Most tasks begin at a default of log-uniform rank among the trials that run, some with
nothing. Measurements have t-distributed noise of five or fewer percent of the default's regret.

What is learned here knows nothing of any benchmark: every number below is drawn or a range.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace
import math

import torch
from torch import Tensor

from optuna_arrl.sampler.cube import Cube
from optuna_arrl.sampler.families import FAMILIES
from optuna_arrl.sampler.pretraining.tasks import descend
from optuna_arrl.sampler.pretraining.tasks import Draws
from optuna_arrl.sampler.pretraining.tasks import misnamed
from optuna_arrl.sampler.pretraining.tasks import Tasks


__all__ = ["SurfaceTasks"]

_SLOTS = (2, 24)  # fewest and most
_CHOICES = 6  # most of a slot; at most a third of the slots and three of them are choices
_WAVES = 64
_ROTATED = 6
_PROBES = 1024  # uniform points that a surface is standardised and its default chosen on
_FAMILIES = ("waves", "bowl", "trade_off", "cliff", "additive", "script")
_WEIGHTS = (1.2, 1.0, 1.0, 0.25, 1.2, 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class SurfaceTasks(Tasks):
    """B tasks on random surfaces.

    Attributes:
        bottom, scale, bend: (B, 1): regret = expm1(bend (g - bottom)) / scale, which is 1 at the
            default and 0 at the best point that was found.
        centre, spread: (B, 1, 6) of the families over uniform points, before they are mixed.
        weight: (B, 1, 6) of the families in g.
        steps: (B, 1) number of steps a unit of g is cut into, 0 for none.
        gate, gated: (B, 1) int64 slot and (B, E) bool columns: what counts only where the gate's
            unit value is below a half.
        rest: What the families draw, by name; (B, …) each.
    """

    bottom: Tensor
    scale: Tensor
    bend: Tensor
    centre: Tensor
    spread: Tensor
    weight: Tensor
    steps: Tensor
    gate: Tensor
    gated: Tensor
    rest: dict[str, Tensor]

    @classmethod
    def draw(cls, count: int, seed: int, device: torch.device | str = "cpu") -> SurfaceTasks:
        """Draw tasks, a function of the arguments; those of other seeds are independent."""
        draws = Draws(count, seed)
        cube = _draw_cube(draws)
        relevance = _relevance(draws, cube)
        gate, gated = _draw_gate(draws, cube)
        nothing = torch.zeros(count, 1)
        parts = {
            **_draw_waves(draws, cube, relevance),
            **_draw_bowl(draws, cube, relevance),
            **_draw_trade_off(draws, cube, relevance),
            **_draw_additive(draws, cube, relevance),
            **_draw_script(draws, cube),
            "cliff": draws.normal(cube.column_slot.shape[1]) * relevance,
            "cliff_steepness": draws.uniform(1, low=4.0, high=20.0),
            **dict.fromkeys(("crash_1", "crash_2"), torch.zeros_like(relevance)),
            **dict.fromkeys(("crash_above_1", "crash_above_2"), nothing + math.inf),
            "crash_product": draws.uniform(1, 1) < 0.5,
        }
        # A gamma law of shape ½: few families count in any one task.
        weights = 0.5 * draws.normal(1, len(_FAMILIES)).square() + 1e-4
        weights = weights * torch.tensor(_WEIGHTS)
        named = (cube.family > 0).any(1)
        weights[..., -1] = torch.where(named[:, None], 2.0 * weights[..., -1] + 1.0, 0.0)
        tasks = cls(
            cube=cube,
            default=torch.zeros(count, cube.slots),
            has_default=draws.uniform() < 0.85,
            noise=draws.log_uniform(0.001, 0.05) * (draws.uniform() > 0.1),
            bottom=nothing,
            scale=nothing + 1.0,
            bend=draws.uniform(1, low=0.25, high=1.5),
            centre=torch.zeros(count, 1, len(_FAMILIES)),
            spread=torch.ones(count, 1, len(_FAMILIES)),
            weight=weights / weights.square().sum(-1, keepdim=True).sqrt(),
            steps=torch.where(draws.uniform(1) < 0.12, draws.log_uniform(3.0, 30.0, 1), 0.0),
            gate=gate,
            gated=gated,
            rest=parts,
        )
        tasks = _calibrated(tasks, draws)
        family = misnamed(cube.family, draws)
        return replace(tasks, cube=replace(cube, family=family)).to(device)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return regrets and what runs; see :class:`Tasks`."""
        height = (self.bend * (self._surface(points) - self.bottom)).clamp(max=8.0)
        return torch.expm1(height) / self.scale, ~self._crashes(points)

    def _columns(self, points: Tensor) -> Tensor:
        """Return feature columns (B, M, E) of legal points, 0 where a condition is not met."""
        columns = self.cube.features(points)
        off = points.gather(2, self.gate[:, None].expand(-1, points.shape[1], -1)) >= 0.5
        return columns * ~(off & self.gated[:, None])

    def _surface(self, points: Tensor) -> Tensor:
        """Return g (B, M)."""
        mixed = ((self._families(points) - self.centre) / self.spread * self.weight).sum(2)
        stepped = torch.floor(mixed * self.steps) / self.steps.clamp(min=1.0)
        return torch.where(self.steps > 0.0, 0.1 * mixed + 0.9 * stepped, mixed)

    def _families(self, points: Tensor) -> Tensor:
        """Return the value of every family (B, M, 6) at legal points (B, M, D)."""
        x, part = self._columns(points), self.rest
        waves = torch.cos(x @ part["waves"].mT + part["wave_phase"][:, None])
        waves = (waves * part["wave_height"][:, None]).sum(2) * (2 / _WAVES) ** 0.5

        off = x - part["bowl_at"][:, None]
        power = part["bowl_power"]
        straight = ((off.abs() + 1e-6) ** power * part["bowl"][:, None]).sum(2)
        rotated = ((off @ part["bowl_rotated"].mT).abs() + 1e-6) ** power
        share = part["bowl_share"]
        bowl = straight * (1.0 - share) + 1.5 * rotated.sum(2) * share

        little, much = (
            2.0 * (x * part[name][:, None]).sum(2) / (part[name].sum(1, keepdim=True) + 1e-6)
            for name in ("too_little", "too_much")
        )
        trade = torch.exp(-part["little_rate"] * little)
        trade = trade + part["much_size"] * torch.exp(part["much_rate"] * (much - 1.0))

        cliff = ((x - 0.4) * part["cliff"][:, None]).sum(2)
        cliff = torch.sigmoid(part["cliff_steepness"] * cliff)

        off = x - part["additive_at"][:, None]
        lopsided = torch.where(off > 0.0, part["additive_lopsided"][:, None], 1.0)
        numbers = (self.cube.column_choice == -1)[:, None]
        additive = (off.abs() + 1e-6) ** part["additive_power"] * lopsided
        choices = x * part["additive_level"][:, None]
        additive = (torch.where(numbers, additive, choices) * part["additive"][:, None]).sum(2)
        return torch.stack([waves, bowl, trade, cliff, additive, self._script(points)], 2)

    def _script(self, points: Tensor) -> Tensor:
        """Return the log loss (B, M) of training under a time budget."""
        part, x = self.rest, points - 0.5
        size, batch = (x * part["script_size"][:, None]).sum(2), self._batch(x)
        steps = -part["script_cost"] * size - batch
        capacity = torch.exp(-part["script_capacity"] * size)
        progress = part["script_hunger"] * torch.exp(-part["script_progress"] * steps)
        # Every rate has a best value that falls with the size and rises with the batch.
        drift = part["script_rate_size"] * size - part["script_rate_batch"] * batch
        off = x - part["script_at"][:, None] + part["script_rate"][:, None] * drift[..., None]
        steep = torch.where(off > 0.0, part["script_steep"][:, None], 1.0)
        tuned = (part["script_curvature"][:, None] * steep * off.square()).sum(2)
        return torch.log(capacity + progress + 0.5) + tuned

    def _batch(self, x: Tensor) -> Tensor:
        return (x * self.rest["script_batch"][:, None]).sum(2)

    def _strain(self, points: Tensor) -> Tensor:
        """Return (B, M, 2): how hard each of two crash conditions is strained."""
        x, part = self._columns(points), self.rest
        x = torch.where(part["crash_product"], torch.log(x + 0.15), x)
        return torch.stack([(x * part[n][:, None]).sum(2) for n in ("crash_1", "crash_2")], 2)

    def _crashes(self, points: Tensor) -> Tensor:
        above = torch.stack([self.rest["crash_above_1"], self.rest["crash_above_2"]], 2)
        return (self._strain(points) > above).any(2)


def _draw_cube(draws: Draws) -> Cube:
    count, most = draws.count, _SLOTS[1]
    number = _SLOTS[0] + draws.below(torch.full((count, 1), most - _SLOTS[0] + 1))
    here = torch.arange(most) < number
    choices = draws.below(torch.full((count, 1), 4)).minimum(number // 3)
    order = (draws.uniform(most) + 2.0 * ~here).argsort(1).argsort(1)
    categorical = order < choices
    integer = here & ~categorical & (draws.uniform(most) < 0.6 * draws.uniform(1))
    levels = torch.zeros(count, most, dtype=torch.int64)
    levels = torch.where(integer, draws.log_uniform(3.0, 64.0, most).long(), levels)
    levels = torch.where(
        categorical, 2 + draws.below(torch.full((count, most), _CHOICES - 1)), levels
    )
    levels = torch.where(here, levels, 1)
    logarithmic = here & ~categorical & (draws.uniform(most) < 0.4)
    low = draws.log_uniform(1.0, 8.0, most).floor()
    start, end = (low - 0.5).log(), (low + levels - 0.5).log()
    named = (draws.uniform(1) < 0.5) & here & ~categorical
    family = 1 + draws.below(torch.full((count, most), len(FAMILIES) - 1))
    family = torch.where(named & (draws.uniform(most) < 0.8), family, 0)
    return Cube.of(levels, categorical, logarithmic, integer, low, start, end, family)


def _relevance(draws: Draws, cube: Cube) -> Tensor:
    """Return (B, E): how much every column matters, of norm 1 over the slots of a task."""
    unequal = 0.3 + 1.5 * draws.uniform(1)
    weight = torch.exp(draws.normal(cube.slots) * unequal) * cube.movable
    weight = weight / weight.square().sum(1, keepdim=True).sqrt()
    return weight.gather(1, cube.column_slot) * (cube.column_choice > -2)


def _draw_gate(draws: Draws, cube: Cube) -> tuple[Tensor, Tensor]:
    """Return a slot that others hang on, and their columns; none in three of four tasks."""
    gate = (draws.uniform(cube.slots) + 2.0 * ~cube.categorical).argmin(1, keepdim=True)
    conditional = cube.categorical.gather(1, gate) & (draws.uniform(1) < 0.35)
    slots = (draws.uniform(cube.slots) < 0.3) & conditional & ~cube.categorical
    return gate, slots.gather(1, cube.column_slot)


def _draw_waves(draws: Draws, cube: Cube, relevance: Tensor) -> dict[str, Tensor]:
    columns = relevance.shape[1]
    chi = draws.normal(_WAVES, 3).square().mean(2, keepdim=True).sqrt()
    tail = (1.0 / chi).clamp(max=4.0)  # a t distribution of 3 degrees of freedom
    sparse = (0.3 * draws.uniform(1, 1) + 2.0 / cube.dim[:, None, None]).clamp(max=1.0)
    share = torch.where(draws.uniform(1, 1) < 0.5, sparse, 1.0)
    kept = draws.uniform(_WAVES, columns) < share
    fast = 1.5 * draws.log_uniform(1.0, 8.0, 1, 1)
    waves = draws.normal(_WAVES, columns) * tail * kept * relevance[:, None] * fast
    return {
        "waves": waves,
        "wave_phase": draws.uniform(_WAVES, high=2 * math.pi),
        "wave_height": draws.normal(_WAVES),
    }


def _draw_bowl(draws: Draws, cube: Cube, relevance: Tensor) -> dict[str, Tensor]:
    columns = relevance.shape[1]
    wide = torch.where(draws.uniform(1) < 0.3, 0.4, 0.0)  # some optima lie beyond the bounds
    at = draws.uniform(cube.slots) * (1.0 + 2.0 * wide) - wide
    snapped = cube.features(cube.snap(at[:, None]))[:, 0]
    numbers = cube.column_choice == -1
    at = torch.where(numbers, at.gather(1, cube.column_slot), snapped)
    rotated = draws.normal(_ROTATED, columns) * relevance[:, None]
    return {
        "bowl_at": at,
        "bowl": relevance * torch.exp(0.5 * draws.normal(columns)),
        "bowl_rotated": rotated * (draws.uniform(_ROTATED, columns) < 0.35),
        "bowl_power": draws.uniform(1, 1, low=1.0, high=2.2),
        "bowl_share": draws.uniform(1),
    }


def _draw_trade_off(draws: Draws, cube: Cube, relevance: Tensor) -> dict[str, Tensor]:
    columns = relevance.shape[1]

    def direction() -> Tensor:
        size = torch.exp(0.7 * draws.normal(columns)) * (draws.uniform(columns) < 0.35)
        return size * (relevance + 0.2 * relevance.mean(1, keepdim=True))

    little, much = direction(), direction()
    return {
        "too_little": little,
        "too_much": torch.where(draws.uniform(1) < 0.5, little + 0.3 * much, much),
        "little_rate": draws.uniform(1, low=1.0, high=5.0),
        "much_rate": draws.uniform(1, low=1.0, high=5.0),
        "much_size": torch.exp(draws.normal(1)),
    }


def _draw_additive(draws: Draws, cube: Cube, relevance: Tensor) -> dict[str, Tensor]:
    columns = relevance.shape[1]
    wide = torch.where(draws.uniform(1) < 0.3, 0.4, 0.0)
    return {
        "additive_at": draws.uniform(columns) * (1.0 + 2.0 * wide) - wide,
        "additive_power": draws.uniform(1, 1, low=1.3, high=2.2),
        "additive": relevance * torch.exp(0.5 * draws.normal(columns)),
        "additive_lopsided": torch.exp(0.6 * draws.normal(columns)),
        "additive_level": 0.5 * draws.normal(columns),
    }


def _draw_script(draws: Draws, cube: Cube) -> dict[str, Tensor]:
    slots = cube.slots

    def of(*names: str) -> Tensor:
        members = torch.tensor([FAMILIES.index(name) for name in names])
        return (cube.family[..., None] == members).any(2).float()

    strength = torch.exp(0.5 * draws.normal(slots))
    # Where nothing is known of a slot's role it may be of any.
    unknown = (cube.family == 0) * cube.numeric * (draws.uniform(slots) < 0.3)
    tuned = of(*FAMILIES[1:]) + unknown
    small = of("dropout", "warmup", "weight_decay", "clipping")
    middle = torch.where(small > 0, -0.25, 0.0)  # what only restrains is best small
    rates = of("learning_rate", "initialisation")
    return {
        "script_size": of("depth", "width", "heads", "length") * strength * 2.0,
        "script_batch": of("batch") * strength * 2.0,
        "script_cost": draws.uniform(1, low=0.5, high=1.5),
        "script_capacity": draws.uniform(1, low=0.5, high=2.0),
        "script_progress": draws.uniform(1, low=0.5, high=2.0),
        "script_hunger": torch.exp(0.7 * draws.normal(1)),
        "script_at": (middle + 0.3 * draws.normal(slots)).clamp(-0.6, 0.6),
        "script_curvature": tuned * torch.exp(0.8 * draws.normal(slots)) * 0.8,
        "script_steep": 1.0 + rates * (draws.log_uniform(1.0, 6.0, slots) - 1.0),
        "script_rate": of("learning_rate") * draws.uniform(slots),
        "script_rate_size": draws.uniform(1, low=0.0, high=0.6),
        "script_rate_batch": draws.uniform(1, low=0.0, high=0.6),
    }


def _calibrated(tasks: SurfaceTasks, draws: Draws) -> SurfaceTasks:
    """Return the tasks with standardised families, crash regions, default and regret scale."""
    cube, count = tasks.cube, len(tasks)
    probes = cube.snap(draws.uniform(_PROBES, cube.slots))
    values = tasks._families(probes)
    tasks = replace(
        tasks,
        centre=values.mean(1, keepdim=True),
        spread=values.std(1, keepdim=True) + 1e-6,
    )
    tasks = _with_crashes(tasks, draws, probes)
    height = torch.where(tasks._crashes(probes), math.inf, tasks._surface(probes))
    order, running = height.argsort(1), height.isfinite().sum(1, keepdim=True)
    # A hand-tuned default: of log-uniform rank among the better 15 % of what runs.
    worst = (0.15 * running).clamp(min=1.0) + 1.0
    rank = (torch.exp(draws.uniform(1) * worst.log()) - 1.0).long()
    default = order.gather(1, rank.clamp(min=0))
    at_default = height.gather(1, default)

    def heights(points: Tensor) -> Tensor:
        return torch.where(tasks._crashes(points), math.inf, tasks._surface(points))

    bottom = descend(cube, heights, draws, probes, height).minimum(at_default) - 0.02
    scale = torch.expm1((tasks.bend * (at_default - bottom)).clamp(max=8.0)).clamp(min=1e-3)
    point = probes.gather(1, default[..., None].expand(count, 1, cube.slots))[:, 0]
    return replace(tasks, default=point, bottom=bottom, scale=scale)


def _with_crashes(tasks: SurfaceTasks, draws: Draws, probes: Tensor) -> SurfaceTasks:
    """Return the tasks with up to two crash conditions, together on 0 to 60 % of the space."""
    columns = tasks._columns(probes)
    height = tasks._surface(probes)
    down = ((columns - columns.mean(1, keepdim=True)) * -(height[..., None] - height.mean())).sum(
        1
    )
    down = down / (down.norm(dim=1, keepdim=True) + 1e-6)
    script = (tasks.rest["script_size"] + tasks.rest["script_batch"]).gather(
        1, tasks.cube.column_slot
    )
    conditions = {}
    for name in ("crash_1", "crash_2"):
        sparse = draws.uniform(columns.shape[2]) < 0.3 * (draws.uniform(columns.shape[2]) < 0.8)
        sign = torch.where(draws.uniform(columns.shape[2]) < 0.8, 1.0, -1.0)
        plane = draws.normal(columns.shape[2]).abs() * sparse * sign
        plane = plane / (plane.norm(dim=1, keepdim=True) + 1e-6)
        share = torch.where(draws.uniform(1) < 0.6, draws.uniform(1), 0.0)
        memory = torch.where(draws.uniform(1) < 0.7, script, 0.0)  # too large does not fit
        conditions[name] = plane + share * down + memory
    tasks = replace(tasks, rest={**tasks.rest, **conditions})
    strain = tasks._strain(probes)
    whole = 0.6 * draws.uniform(1) * (draws.uniform(1) > 0.15)
    first = torch.where(draws.uniform(1) < 0.5, whole * draws.uniform(1), 0.0)
    bounds = {}
    for j, share in enumerate((first, whole - first)):
        ordered = strain[..., j].sort(dim=1).values
        place = ((1.0 - share) * (_PROBES - 1)).long()
        bound = torch.where(share < 0.01, math.inf, ordered.gather(1, place))
        bounds[f"crash_above_{j + 1}"] = bound
    return replace(tasks, rest={**tasks.rest, **bounds})
