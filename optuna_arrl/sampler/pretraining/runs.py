"""Tasks on real runs of small training scripts of our own.

`runs.npz` holds what `tools/run_small_scripts.py` measured: of every *world*, a training problem
with 8 to 22 named hyperparameters, a hundred runs of about half a second. Between them the loss is
a path that every task draws anew from the posterior of a Gaussian process, not its mean, which
would be as smooth as who searches it expects. A configuration runs where the crash process says.

A task searches some slots of a world, half of the numbers within narrower bounds, from one of its
better runs, where the other slots stay. Of the worlds the last ones are held out: tasks to learn
on are made of the others, tasks to judge by of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace
import functools
from functools import cached_property
from importlib import resources
import math

import numpy as np
import torch
from torch import Tensor

from optuna_arrl.sampler.cube import Cube
from optuna_arrl.sampler.families import name_family
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.pretraining.tasks import descend
from optuna_arrl.sampler.pretraining.tasks import Draws
from optuna_arrl.sampler.pretraining.tasks import misnamed
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.surrogate import fit
from optuna_arrl.sampler.surrogate import Hyperparameters
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["HELD_OUT", "RunTasks", "Worlds"]

HELD_OUT = 12
"""Number of worlds, the last ones, that only tasks to judge by are made of."""

_FEWEST = 4  # slots
_PROBES = 256
_WAVES = 128
_BETTER = 0.3  # share of a world's runs that defaults are taken from
_NAMELESS, _SLOT_NAMELESS = 0.2, 0.1
_LEAST_SCALE = 0.05  # of the gap of a world's losses, where a default is near the best


@dataclass(frozen=True, eq=False)
class Worlds:
    """W worlds of at most D hyperparameters and n runs.

    Attributes:
        family: (W, D) int64, of the slots' names.
        choices: (W, D) int64, number of choices, 0 of a number, 1 in padding.
        logarithmic, integer: (W, D) bool.
        low, high: (W, D), bounds of the numbers; of an integer half a unit beyond its own.
        history: The runs, in the unit cube of each world, where integers are a continuum too.
        theta: Hyperparameters of the processes.
    """

    family: Tensor
    choices: Tensor
    logarithmic: Tensor
    integer: Tensor
    low: Tensor
    high: Tensor
    history: History
    theta: Hyperparameters

    @classmethod
    @functools.cache
    def shipped(cls) -> Worlds:
        """Return all worlds of `runs.npz`."""
        file = resources.files(__package__) / "runs.npz"
        with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
            names, choices, units, losses = (
                arrays[name] for name in ("name", "choices", "units", "loss")
            )
            logarithmic, integer = (
                torch.from_numpy(arrays[n]) for n in ("logarithmic", "integer")
            )
            low, high = (torch.from_numpy(arrays[name]) for name in ("low", "high"))
        family = torch.tensor([[name_family(str(n)) for n in world] for world in names])
        levels = torch.from_numpy(choices.astype(np.int64))
        no, nothing = torch.zeros(levels.shape, dtype=torch.bool), torch.zeros(levels.shape)
        cube = Cube.of(
            levels,
            levels > 1,
            no,
            no,
            nothing + 1.0,
            nothing,
            nothing + 1.0,
            torch.zeros_like(levels),
        )
        loss = torch.from_numpy(losses).double()
        ran = loss.isfinite()
        history = History(
            cube,
            cube.snap(torch.from_numpy(units).float()),
            torch.where(ran, loss, math.inf),
            ran,
            torch.full(ran.shape, -1),
        )
        half = 0.5 * integer
        return cls(
            family, levels, logarithmic, integer, low - half, high + half, history, fit(history)
        )

    def __len__(self) -> int:
        return len(self.choices)


@dataclass(frozen=True, eq=False, kw_only=True)
class RunTasks(Tasks):
    """B tasks on real runs.

    Attributes:
        history, theta: Of the task's world.
        base: (B, D) a run of the world.
        slots: (B, D) int64, which slot of the world a slot is; beyond the task's own the others.
        start, length: (B, D) the part of the world's slot that a slot spans.
        bottom, scale: (B, 1) float64: regret = (loss - bottom) / scale.
        enough: (B, 1) probability that a run is scored from which on it is.
        waves, phases, ripple: (B, M, E), (B, M), (B, n), what the path is drawn with.
    """

    history: History
    theta: Hyperparameters
    base: Tensor
    slots: Tensor
    start: Tensor
    length: Tensor
    bottom: Tensor
    scale: Tensor
    enough: Tensor
    waves: Tensor
    phases: Tensor
    ripple: Tensor

    @classmethod
    def draw(
        cls,
        count: int,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        held_out: bool,
    ) -> RunTasks:
        """Draw tasks, a function of the arguments.

        Args:
            count: B.
            seed: Of the draws.
            device: Where they are to be.
            held_out: Whether of the worlds that are held out, or of the others.
        """
        worlds = Worlds.shipped()
        draws, learned = Draws(count, seed), len(worlds) - HELD_OUT
        pool = torch.full((count,), HELD_OUT if held_out else learned)
        row = draws.below(pool) + (learned if held_out else 0)
        history, theta = (
            worlds.history[row],
            Hyperparameters(*(part[row] for part in worlds.theta)),
        )
        real = worlds.choices[row] != 1
        most = real.shape[1]
        # Some of the slots, in any order.
        least = real.sum(1, keepdim=True).clamp(max=_FEWEST)
        number = least + draws.below(real.sum(1, keepdim=True) - least + 1)
        slots = (draws.uniform(most) + 2.0 * ~real).argsort(1)
        here = torch.arange(most) < number
        choices, logarithmic, integer, low, high, family = (
            part[row].gather(1, slots)
            for part in (
                worlds.choices,
                worlds.logarithmic,
                worlds.integer,
                worlds.low,
                worlds.high,
                worlds.family,
            )
        )
        # One of the better runs, of log-uniform rank.
        better = (_BETTER * history.number_ran).clamp(min=1.0)
        rank = (torch.exp(draws.uniform() * (better + 1.0).log()) - 1.0).long()
        base = history.at(history.ranking.gather(1, rank[:, None]))[:, 0]

        own = base.gather(1, slots)
        numeric = here & (choices == 0)
        narrow = numeric & (draws.uniform(most) < 0.5)
        length = torch.where(narrow, draws.log_uniform(0.25, 1.0, most), 1.0)
        start = (own - length * draws.uniform(most)).clamp(min=0.0).minimum(1.0 - length)
        axis = _Axis(low, high, logarithmic)
        ends = [axis.value(x) for x in (start, start + length)]
        whole = numeric & integer
        first, last = (torch.where(whole, x.round(), 1.0) for x in ends)
        first, last = first.maximum(low + 0.5), last.minimum(high - 0.5)
        last = last.maximum(first)
        start = torch.where(whole, axis.place(first - 0.5), start)
        length = torch.where(whole, axis.place(last + 0.5) - start, length)
        levels = torch.where(whole, (last - first).round().long() + 1, choices)
        named = here & (draws.uniform(most) > _SLOT_NAMELESS) & (draws.uniform(1) > _NAMELESS)
        cube = Cube.of(
            torch.where(here, levels, 1),
            here & (choices > 1),
            here & logarithmic,
            whole,
            torch.where(whole, first, 1.0),
            torch.where(whole, first - 0.5, 1.0).log(),
            torch.where(whole, last + 0.5, 2.0).log(),
            misnamed(torch.where(named, family, 0), draws),
        )
        nothing = torch.zeros(count, 1)
        place = ((own - start) / length).clamp(0.0, 1.0)
        tasks = cls(
            cube=cube,
            default=cube.snap(torch.where(here, place, 0.5)[:, None])[:, 0],
            has_default=draws.uniform() < 0.85,
            noise=draws.log_uniform(0.001, 0.05) * (draws.uniform() > 0.1),
            history=history,
            theta=theta,
            base=base,
            slots=slots,
            start=torch.where(here, start, own),
            length=torch.where(here, length, 0.0),
            bottom=nothing.double(),
            scale=nothing.double() + 1.0,
            enough=nothing,
            **_draw_path(draws, history),
        )
        return _calibrated(tasks, draws).to(device)

    @cached_property
    def _surrogate(self) -> Surrogate:
        return Surrogate(self.history, self.theta)

    @cached_property
    def _path(self) -> Callable[[Tensor], Tensor]:
        return self._surrogate.path(self.waves, self.phases, self.ripple)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return regrets and what runs; see :class:`Tasks`."""
        losses, p_runs = self._runs(points)
        return ((losses - self.bottom) / self.scale).to(points), p_runs >= self.enough

    def _runs(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and probabilities that they are measured, (B, M) each."""
        shape = (-1, points.shape[1], -1)
        inside = self.start[:, None] + self.length[:, None] * points
        world = self.base[:, None].expand(shape)
        world = world.scatter(2, self.slots[:, None].expand(shape), inside)
        losses = self._surrogate.warp.inverse(self._path(world).double())
        return losses, self._surrogate.predict(world).p_runs


@dataclass(frozen=True)
class _Axis:
    """Numbers on linear and logarithmic scales between bounds, (B, D) each."""

    low: Tensor
    high: Tensor
    logarithmic: Tensor

    def value(self, units: Tensor) -> Tensor:
        """Return the numbers at unit values."""
        logs = self.low * (self.high / self.low) ** units
        return torch.where(self.logarithmic, logs, self.low + units * (self.high - self.low))

    def place(self, values: Tensor) -> Tensor:
        """Return the unit values of numbers."""
        logs = (values / self.low).log() / (self.high / self.low).log()
        return torch.where(self.logarithmic, logs, (values - self.low) / (self.high - self.low))


def _draw_path(draws: Draws, history: History) -> dict[str, Tensor]:
    columns = history.cube.column_slot.shape[1]
    # A t distribution of 5 degrees of freedom, the spectrum of Matérn-5/2.
    chi = draws.normal(_WAVES, 5).square().mean(2, keepdim=True).sqrt()
    return {
        "waves": draws.normal(_WAVES, columns) / chi,
        "phases": draws.uniform(_WAVES, high=2.0 * math.pi),
        "ripple": draws.normal(len(history)),
    }


def _calibrated(tasks: RunTasks, draws: Draws) -> RunTasks:
    """Return the tasks with the scale of their regrets, and with defaults that run."""
    cube = tasks.cube
    loss, p_runs = tasks._runs(tasks.default[:, None])
    tasks = replace(tasks, enough=p_runs.clamp(max=0.5))

    def height(points: Tensor) -> Tensor:
        losses, p_runs = tasks._runs(points)
        return torch.where(p_runs >= tasks.enough, losses, math.inf)

    probes = cube.snap(draws.uniform(_PROBES, cube.slots))
    bottom = descend(cube, height, draws, probes, height(probes)).minimum(loss)
    least = _LEAST_SCALE * tasks._surrogate.warp.gap
    return replace(tasks, bottom=bottom, scale=(loss - bottom).maximum(least))
