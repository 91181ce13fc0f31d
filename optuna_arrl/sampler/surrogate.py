"""Gaussian processes for score and crash: the policy's features and its starting logits.

Two processes over the unit cube share one model: Matérn-5/2 with a lengthscale per slot, fitted
to the maximum of the posterior (MAP) by a fixed number of Adam steps from the prior mean. The
value process sees the warped losses of the trials that ran, the crash process +1 or -1 for every
trial. Both are fitted as one batch of two; the functions below take any leading dimensions.

A fit is a pure function of the history: nothing is carried over from earlier fits, so that any
process can repeat it. Its cost stays flat: it is conditioned on at most 256 trials, and its
hyperparameters are fitted to at most 128 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.space import Array


__all__ = ["Surrogate", "Warp"]

_BEST, _LATEST = 64, 192  # trials kept
_FIT_BEST, _FIT_LATEST = 32, 96  # of these, trials that the hyperparameters are fitted to
_STEPS, _LEARNING_RATE = 30, 0.2
_JITTER = 5e-4  # relative to the output scale

# Chosen on synthetic tasks only, none of them a benchmark (4,600 episodes; neighbours do as well).
_PESSIMISM = 0.3  # the value process expects unknown edits to be this much worse than the mean
_XI = 0.1  # gain that counts as none
_WIDER = 1.2  # times the posterior sd
_POSTERIOR_BEST = 0.9  # weight of the best posterior mean in the value to beat, rest: best seen
_RUNS_POWER = 2.5  # of P(runs) in the acquisition
_FLOOR = 1e-3  # of the gap: a loss a whole gap below the best has no logarithm, and gets this
_EXPECTED_TO_RUN = 0.5  # prior mean of the crash process on its scale of ±1


class _Prior(NamedTuple):
    """Means of the normal priors on the logarithms of the hyperparameters, (G, 1) each."""

    lengthscale: Tensor  # of sd 1, to which half the log of the number of slots is added
    noise: Tensor  # variance, of sd 1.5; the output scale has mean 0, sd 0.5


_PRIOR = _Prior(
    lengthscale=torch.tensor([[-1.3], [0.0]], dtype=torch.float64),  # value, crash
    noise=torch.tensor([[-3.5], [-4.0]], dtype=torch.float64),
)


class _Hyperparameters(NamedTuple):
    """Logarithms: lengthscale of every slot (..., D), noise variance and output scale (..., 1)."""

    lengthscale: Tensor
    noise: Tensor
    scale: Tensor


def _matern(a: Tensor, b: Tensor) -> Tensor:
    """Return Matérn-5/2 correlations (..., n, m) of features (..., n, E) and (..., m, E)."""
    squares = (a * a).sum(-1)[..., :, None] + (b * b).sum(-1)[..., None, :]
    r = (5.0 * (squares - 2.0 * a @ b.mT).clamp(min=1e-10)).sqrt()
    return (1.0 + r + r * r / 3.0) * torch.exp(-r)


class _Solved(NamedTuple):
    """A process conditioned on its data."""

    cholesky: Tensor  # (..., n, n)
    weights: Tensor  # (..., n), K⁻¹ y


def _solve(
    theta: _Hyperparameters, features: Tensor, slots: Tensor, targets: Tensor, known: Tensor
) -> _Solved:
    """Condition processes on targets.

    Args:
        theta: Hyperparameters.
        features: (..., n, E).
        slots: (E,) the slot that each feature column belongs to.
        targets: (..., n), deviations from the prior mean.
        known: (..., n), 1 where a target counts and 0 where it does not.
    """
    scaled = features * torch.exp(-theta.lengthscale)[..., None, slots]
    both = known[..., :, None] * known[..., None, :]
    covariance = torch.exp(theta.scale)[..., None] * _matern(scaled, scaled) * both
    own = torch.exp(theta.noise) + _JITTER * torch.exp(theta.scale)
    # What is not known becomes an independent unit of its own: zero weight, zero log-determinant.
    diagonal = torch.where(known > 0.0, own, 1.0)
    cholesky, failed = torch.linalg.cholesky_ex(covariance + torch.diag_embed(diagonal))
    if failed.any():  # repeats of a point under a tiny noise
        cholesky = torch.linalg.cholesky(covariance + torch.diag_embed(diagonal + 0.02))
    weights = torch.cholesky_solve((targets * known)[..., None], cholesky)[..., 0]
    return _Solved(cholesky, weights)


def _negative_log_posterior(
    theta: _Hyperparameters,
    prior: _Prior,
    features: Tensor,
    slots: Tensor,
    targets: Tensor,
    known: Tensor,
) -> Tensor:
    """Return (...): minus the log marginal likelihood, minus the log prior, up to a constant."""
    solved = _solve(theta, features, slots, targets, known)
    fit = 0.5 * (targets * known * solved.weights).sum(-1)  # ½ yᵀ K⁻¹ y
    size = solved.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # ½ log |K|
    expected = prior.lengthscale + 0.5 * math.log(max(theta.lengthscale.shape[-1], 1))
    return (
        fit
        + size
        + 0.5 * (theta.lengthscale - expected).square().sum(-1)
        + 0.5 * ((theta.noise - prior.noise) / 1.5).square().sum(-1)
        + 0.5 * (theta.scale / 0.5).square().sum(-1)
    )


def _fit(
    prior: _Prior, dim: int, features: Tensor, slots: Tensor, targets: Tensor, known: Tensor
) -> _Hyperparameters:
    """Return hyperparameters near the maximum of the posterior, by Adam from the prior's."""
    leading = targets.shape[:-1]
    lengthscale = prior.lengthscale + 0.5 * math.log(max(dim, 1))
    start = torch.cat([lengthscale.expand(*leading, dim), prior.noise, 0.0 * prior.noise], -1)
    theta = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theta], lr=_LEARNING_RATE, betas=(0.8, 0.95), eps=1e-3)

    def parts() -> _Hyperparameters:
        return _Hyperparameters(theta[..., :dim], theta[..., dim : dim + 1], theta[..., dim + 1 :])

    for _ in range(_STEPS if targets.shape[-1] else 0):
        optimizer.zero_grad()
        loss = _negative_log_posterior(parts(), prior, features, slots, targets, known)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            theta[..., :dim].clamp_(-2.3, 5.0)
            theta[..., dim].clamp_(-7.0, 0.5)
            theta[..., dim + 1].clamp_(-1.5, 1.5)
    return _Hyperparameters(*(part.detach() for part in parts()))


@dataclass(frozen=True)
class Warp:
    """A monotone scale on which losses are modelled: standardised log(y - best + gap).

    The gap between the median and the best loss makes it free of unit and origin; the logarithm
    spreads the good end, where edits are decided, and keeps one terrible loss from swamping it.

    Attributes:
        best, gap: In the unit of the losses.
        mean, sd: Of log((y - best + gap) / gap) over the losses it was made from.
    """

    best: float
    gap: float
    mean: float
    sd: float

    @classmethod
    def of(cls, losses: Array) -> Warp | None:
        """Return the warp of losses (n,), or :obj:`None` where no two of them differ."""
        if not len(losses):
            return None
        best = float(losses.min())
        # Halves first: the losses' range may be wider than the largest float.
        gaps = np.sort(0.5 * losses - 0.5 * best)
        if gaps[-1] == 0.0:
            return None
        half = gaps[(len(gaps) - 1) // 2] or gaps.mean()
        half = max(half, 1e-12 * gaps[-1])  # the worst is at most log 1e12 above the best
        gap = float(min(2.0 * half, np.finfo(float).max))
        unscaled = cls(best, gap, 0.0, 1.0)
        logs = unscaled(losses)
        return cls(best, gap, float(logs.mean()), float(max(logs.std(), 1e-3)))

    def __call__(self, losses: Array) -> Array:
        """Return losses on the modelled scale, lower is better."""
        excess = np.maximum((0.5 * losses - 0.5 * self.best) / (0.5 * self.gap), _FLOOR - 1.0)
        return (np.log1p(excess) - self.mean) / self.sd

    def inverse(self, warped: Array) -> Array:
        """Return the losses of values on the modelled scale."""
        return self.best + self.gap * np.expm1(warped * self.sd + self.mean)


class Surrogate:
    """A value process and a crash process, fitted to a history and a pure function of it.

    Args:
        history: Any, the empty one and one of failures only included.

    Attributes:
        trials: (n,) history indices of the trials kept, ascending.
        warped: (n,) warped losses of the kept trials, clipped; 0 where a trial did not run.
        best: The warped loss to beat.
        log_lengthscales: (D,) of the value process.
        log_noise, log_scale: Logarithms of the noise variance and the prior variance of the
            warped losses.
    """

    def __init__(self, history: History) -> None:
        self._space = space = history.space
        self.trials = _kept(history, _BEST, _LATEST)
        ran, losses = history.ran[self.trials], history.losses[self.trials]
        self._warp = Warp.of(losses[ran])
        self.warped = np.zeros(len(ran))
        self.warped[ran] = self.warp(losses[ran])

        self._slots = torch.from_numpy(space.feature_slots)
        self._features = torch.from_numpy(space.features(history.points[self.trials]))
        value = self.warped - _PESSIMISM
        crash = np.where(ran, 1.0, -1.0) - _EXPECTED_TO_RUN
        targets = torch.from_numpy(np.stack([value, crash]))
        self._known = torch.from_numpy(np.stack([ran.astype(np.float64), np.ones(len(ran))]))

        few = np.isin(self.trials, _kept(history, _FIT_BEST, _FIT_LATEST))
        self._theta = _fit(
            _PRIOR,
            space.dim,
            self._features[few],
            self._slots,
            targets[:, few],
            self._known[:, few],
        )
        self._solved = _solve(self._theta, self._features, self._slots, targets, self._known)

        self.log_lengthscales = self._theta.lengthscale[0].numpy()
        self.log_noise = float(self._theta.noise[0])
        self.log_scale = float(self._theta.scale[0])
        self.best = 0.0
        if ran.any():
            # K a = y - noise a: the posterior mean at the trials themselves, from the solution.
            own = torch.exp(self._theta.noise[0]) + _JITTER * torch.exp(self._theta.scale[0])
            smoothed = self.warped - (own * self._solved.weights[0]).numpy()
            self.best = (
                _POSTERIOR_BEST * smoothed[ran].min()
                + (1.0 - _POSTERIOR_BEST) * self.warped[ran].min()
            )

    @classmethod
    def fit(cls, history: History) -> Surrogate:
        """Fit both processes to a history (any, the empty one included)."""
        return cls(history)

    def predict(self, points: Array) -> tuple[Array, Array, Array]:
        """Return what is expected of edits.

        Args:
            points: (C, D) legal points.

        Returns:
            Mean and sd of the warped loss without noise, and the probability to run; (C,) each.
        """
        scale = torch.exp(self._theta.scale)  # (2, 1)
        covariance = scale[..., None] * _matern(*self._scaled(points)) * self._known[:, None]
        mean = (covariance @ self._solved.weights[..., None])[..., 0]
        half = torch.linalg.solve_triangular(self._solved.cholesky, covariance.mT, upper=False)
        variance = (scale - half.square().sum(-2)).clamp(min=1e-6)
        margin = (mean[1] + _EXPECTED_TO_RUN) / (variance[1] + 0.05).sqrt()
        return (
            (mean[0] + _PESSIMISM).numpy(),
            variance[0].sqrt().numpy(),
            torch.special.ndtr(margin).numpy(),
        )

    def log_acquisition(self, points: Array) -> Array:
        """Return how much edits promise: log expected improvement + 2.5 log P(runs).

        Args:
            points: (C, D) legal points.

        Returns:
            (C,) natural logarithms.
        """
        mean, sd, p_runs = self.predict(points)
        sd = _WIDER * sd
        improvement = np.log(sd) + _log_improvement((self.best - _XI - mean) / sd)
        return improvement + _RUNS_POWER * np.log(np.maximum(p_runs, 1e-6))

    def expected_gain(self, points: Array) -> Array | None:
        """Return the expected improvement on the best loss so far, in the losses' own unit.

        Args:
            points: (C, D) legal points.

        Returns:
            (C,) P(runs) × E[max(best - loss, 0)], or :obj:`None` while no two losses differ.
        """
        if self._warp is None:
            return None
        mean, sd, p_runs = self.predict(points)
        quantiles = torch.special.ndtri((torch.arange(64, dtype=torch.float64) + 0.5) / 64)
        losses = self._warp.inverse(mean[:, None] + sd[:, None] * quantiles.numpy())
        gain: Array = np.maximum(self._warp.best - losses, 0.0).mean(axis=1)
        return p_runs * gain

    def warp(self, losses: Array) -> Array:
        """Return losses (…,) on the scale that the value process models, clipped to [-3, 2.5]."""
        if self._warp is None:
            return np.zeros_like(losses)
        return np.clip(self._warp(losses), -3.0, 2.5)

    def distances(self, points: Array) -> Array:
        """Return (C, n) distances to the kept trials, in lengthscales of the value process."""
        a, b = self._scaled(points)
        return torch.cdist(a[0], b[0]).numpy()

    def _scaled(self, points: Array) -> tuple[Tensor, Tensor]:
        """Return features of points (2, C, E) and kept trials (2, n, E), in lengthscales."""
        inverse = torch.exp(-self._theta.lengthscale)[:, None, self._slots]
        features = torch.from_numpy(self._space.features(points))
        return features * inverse, self._features * inverse


def _kept(history: History, best: int, latest: int) -> NDArray[np.int64]:
    """Return the indices of the `best` best and, of the others, the `latest` latest; ascending."""
    top = history.ranking[:best]
    others = np.setdiff1d(np.arange(len(history)), top)
    return np.sort(np.concatenate([top, others[max(len(others) - latest, 0) :]]))


def _log_improvement(u: Array) -> Array:
    """Return log(φ(u) + u Φ(u)), the log of the expected improvement of a unit normal.

    Below zero by the scaled complementary error function, where the plain form cancels.
    """
    x = torch.from_numpy(np.maximum(u, -1e4))
    log_density = -0.5 * x.square() - 0.5 * math.log(2.0 * math.pi)
    below = x.clamp(max=0.0)
    tail = math.sqrt(0.5 * math.pi) * torch.special.erfcx(-below * math.sqrt(0.5))
    negative = log_density + torch.log1p((below * tail).clamp(min=-1.0 + 1e-12))
    plain = torch.log(torch.exp(log_density) + x * torch.special.ndtr(x))
    return torch.where(x > 0.0, plain, negative).numpy()
