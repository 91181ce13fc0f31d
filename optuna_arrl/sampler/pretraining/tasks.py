"""What a batch of tasks to learn on is: search spaces, defaults, noise and what edits come to."""

from __future__ import annotations

from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
import math
from typing import Any
from typing import Self
from typing import TypeVar

import torch
from torch import Tensor

from optuna_arrl.sampler.cube import Cube


__all__ = ["NO_REGRET", "Draws", "Tasks", "descend", "log_regret", "misnamed"]

NO_REGRET = 0.02
"""Added to a regret before its logarithm: a fiftieth of the default's counts as half way done."""

_MOST_REGRET = 20.0  # of the default's; also what a task counts that has no trial that ran

_MISNAMED = 0.25  # share of the tasks

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False, kw_only=True)
class Tasks(ABC):
    """B tasks, side by side as tensors.

    Attributes:
        cube: Their search spaces, float32.
        default: (B, D) legal points that the regrets are measured by; it runs.
        has_default: (B,) bool, whether an episode begins there.
        noise: (B,) scale of the measurement noise, in the unit of the regret.
    """

    cube: Cube
    default: Tensor
    has_default: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.cube)

    def __getitem__(self, rows: Tensor) -> Self:
        """Return the tasks `rows`."""
        return _changed(self, lambda part: part[rows])

    def to(self, device: torch.device | str) -> Self:
        """Return the tasks on a device."""
        return _changed(self, lambda part: part.to(device))

    @abstractmethod
    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise-free regrets (B, M) and what runs (B, M) bool, at legal points (B, M, D).

        A regret is 1 at the default (less where that is hardly worse than the best) and about 0
        at the best point; it is also given where a point does not run.
        """

    def measure(self, regrets: Tensor, generator: torch.Generator) -> Tensor:
        """Return measured losses (B, M) float64 of regrets, with noise of a t distribution."""
        shape = (*regrets.shape, 5)
        normal = torch.randn(shape, generator=generator, device=regrets.device)
        t = normal[..., 0] / normal[..., 1:].square().mean(-1).sqrt()  # 4 degrees of freedom
        return (regrets + t * self.noise[:, None]).double()


def _changed(value: _T, change: Callable[[Tensor], Tensor]) -> _T:
    """Return a dataclass, named tuple or mapping of tensors with every tensor changed."""
    result: Any = value
    if isinstance(value, Tensor):
        result = change(value)
    elif isinstance(value, Mapping):
        result = {name: _changed(part, change) for name, part in value.items()}
    elif isinstance(value, tuple):
        result = type(value)(*(_changed(part, change) for part in value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        result = dataclasses.replace(value, **_changed(parts, change))
    return result  # type: ignore[no-any-return]


def log_regret(regret: Tensor) -> Tensor:
    """Return the logarithm of a regret, from log 0.02 at the optimum to about 3."""
    return torch.log(regret.clamp(min=0.0, max=_MOST_REGRET) + NO_REGRET)


class Draws:
    """Draws for a batch of tasks, all from one seed.

    Args:
        count: B, the first dimension of all that is drawn.
        seed: What it is a function of.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (B, *shape) between two bounds."""
        unit = torch.rand((self.count, *shape), generator=self.generator)
        return low + unit * (high - low)

    def normal(self, *shape: int) -> Tensor:
        """Return (B, *shape) of the standard normal distribution."""
        return torch.randn((self.count, *shape), generator=self.generator)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return (B, *shape) whose logarithms are uniform."""
        return torch.exp(self.uniform(*shape, low=math.log(low), high=math.log(high)))

    def below(self, number: Tensor) -> Tensor:
        """Return int64 draws from 0 to `number` - 1, in its shape (B, …)."""
        unit = torch.rand(number.shape, generator=self.generator)
        return (unit * number).floor().long().minimum((number - 1).clamp(min=0))


def descend(
    cube: Cube,
    height: Callable[[Tensor], Tensor],
    draws: Draws,
    probes: Tensor,
    heights: Tensor,
) -> Tensor:
    """Return the lowest height (B, 1) that an evolution from the best probes finds.

    Args:
        cube: B search spaces.
        height: Of legal points (B, M, D), (B, M); infinite where a point does not run.
        draws: Of the same batch.
        probes: (B, m, D) points to begin with.
        heights: (B, m), theirs.
    """
    kept, children, slots = 40, 160, probes.shape[2]

    def rows(points: Tensor, index: Tensor) -> Tensor:
        return points.gather(1, index[..., None].expand(-1, -1, slots))

    order = heights.argsort(1)[:, :kept]
    points, heights = rows(probes, order), heights.gather(1, order)
    for generation in range(25):
        step = 0.3 * 0.8 ** (0.5 * generation) + 0.01
        one, other = (
            rows(points, draws.below(torch.full((len(cube), children), kept))) for _ in range(2)
        )
        moves = draws.uniform(children, slots) < 0.25
        child = one + moves * step * draws.normal(children, slots)
        crossed = torch.where(draws.uniform(children, slots) < 0.5, one, other)
        child = torch.where(draws.uniform(children, 1) < 0.3, crossed, child)
        again = cube.categorical[:, None] & (draws.uniform(children, slots) < 0.1)
        child = torch.where(again, draws.uniform(children, slots), child)
        child = cube.snap(child)
        points = torch.cat([points, child], 1)
        heights = torch.cat([heights, height(child)], 1)
        order = heights.argsort(1)[:, :kept]
        points, heights = rows(points, order), heights.gather(1, order)
    return heights[:, :1]


def misnamed(family: Tensor, draws: Draws) -> Tensor:
    """Return the families of names (B, D), in a quarter of the tasks dealt out anew.

    A name may lead astray: what is learned from names must give way to the trials.
    """
    unknown = family == 0
    named = unknown.sort(dim=1, stable=True).indices
    dealt = (draws.uniform(family.shape[1]) + 2.0 * unknown).argsort(1)
    shuffled = torch.zeros_like(family).scatter(1, named, family.gather(1, dealt))
    return torch.where(draws.uniform(1) < _MISNAMED, shuffled, family)
