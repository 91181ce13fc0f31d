"""Gaussian processes for score and crash: the policy's features and its starting logits.

Two processes over the unit cube share one model: Matérn-5/2 with a lengthscale per slot, fitted
to the maximum of the posterior (MAP) by a fixed number of Adam steps from the prior mean. The
value process sees the warped losses of the trials that ran, the crash process +1 or -1 for every
trial. All tensors lead with (B, 2): B studies, of each the value and the crash process.

A fit is a pure function of the history: nothing is carried over from earlier fits, so that any
process can repeat it. Its cost stays flat: it is conditioned on at most 256 trials, and its
hyperparameters are fitted to at most 128 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
from typing import NamedTuple

import torch
from torch import Tensor

from optuna_arrl.sampler.cube import Cube
from optuna_arrl.sampler.history import History


__all__ = [
    "Hyperparameters",
    "Prediction",
    "Surrogate",
    "Warp",
    "fit",
    "fitted_trials",
    "kept_trials",
]

_BEST, _LATEST = 64, 192  # trials kept
_FIT_BEST, _FIT_LATEST = 32, 96  # of the first `fitted_trials`, those that a fit looks at
_STEPS, _LEARNING_RATE = 12, 0.25
_EVERY_TRIAL, _GROWTH = 12, 1.12  # refit at every trial up to the first, then at each growth
_JITTER = 5e-4  # relative to the output scale

# Chosen on synthetic tasks only, none of them a benchmark (4,600 episodes; neighbours do as well).
_PESSIMISM = 0.3  # the value process expects unknown edits to be this much worse than the mean
_XI = 0.1  # gain that counts as none
_WIDER = 1.2  # times the posterior sd
_POSTERIOR_BEST = 0.9  # weight of the best posterior mean in the value to beat, rest: best seen
_RUNS_POWER = 2.5  # of P(runs) in the acquisition
_FLOOR = 1e-3  # of the gap: a loss a whole gap below the best has no logarithm, and gets this
_EXPECTED_TO_RUN = 0.5  # prior mean of the crash process on its scale of ±1
_LENGTHSCALE = (-1.3, 0.0)  # prior mean of its log, value and crash; ½ log(slots) is added; sd 1
_NOISE = (-3.5, -4.0)  # prior mean of the log noise variance; sd 1.5
_NOISE_SD, _SCALE_SD = 1.5, 0.5  # the log output scale has mean 0


class Hyperparameters(NamedTuple):
    """Logarithms: lengthscale of every slot (B, 2, D), noise variance and output scale (B, 2)."""

    lengthscale: Tensor
    noise: Tensor
    scale: Tensor


class Prediction(NamedTuple):
    """What is expected of candidates, (B, C) each.

    Attributes:
        mean, sd: Of the warped loss, noise apart.
        p_runs: Probability that the trial runs to a score.
        distances: (B, C, n) to the kept trials, in lengthscales of the value process.
        doubt: 1 - k(x, X) K⁻¹ 1 of the value process: by so much the mean moves with the prior's
            constant mean. About 0 at the trials, 1 far from all.
    """

    mean: Tensor
    sd: Tensor
    p_runs: Tensor
    distances: Tensor
    doubt: Tensor


def fitted_trials(n: int) -> int:
    """Return how many of the first trials the hyperparameters are fitted to when there are `n`.

    Every one up to 12, then the steps of a ladder that grows by 12 %: a fit costs more than a
    prediction, and one trial in a hundred moves it little.
    """
    if n <= _EVERY_TRIAL:
        return n
    rung = math.floor(math.log(n / _EVERY_TRIAL) / math.log(_GROWTH) + 1e-9)
    return math.floor(_EVERY_TRIAL * _GROWTH**rung)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances (..., n, m) of (..., n, E) and (..., m, E)."""
    squares = (a * a).sum(-1)[..., :, None] + (b * b).sum(-1)[..., None, :]
    return (squares - 2.0 * a @ b.mT).clamp(min=1e-10).sqrt()


def _matern(distances: Tensor) -> Tensor:
    """Return Matérn-5/2 correlations of distances in lengthscales."""
    r = math.sqrt(5.0) * distances
    return (1.0 + r + r * r / 3.0) * torch.exp(-r)


class _Data(NamedTuple):
    """What a process is conditioned on."""

    features: Tensor  # (B, 1, n, E)
    targets: Tensor  # (B, 2, n), deviations from the prior mean, 0 where not known
    known: Tensor  # (B, 2, n), 1 where a target counts and 0 where it does not


def _columns(cube: Cube, slots: Tensor) -> Tensor:
    """Return values of slots (B, 2, D) by feature column, (B, 2, E)."""
    return slots.gather(2, cube.column_slot[:, None].expand(-1, slots.shape[1], -1))


def _cholesky(correlations: Tensor, theta: Hyperparameters, known: Tensor) -> Tensor:
    """Return the Cholesky factor (B, 2, n, n) of the covariance of what is known.

    What is not known becomes an independent unit of its own: zero weight, zero log-determinant.
    """
    both = known[..., :, None] * known[..., None, :]
    own = torch.exp(theta.noise) + _JITTER * torch.exp(theta.scale)
    diagonal = torch.where(known > 0.0, own[..., None], 1.0)
    covariance = torch.exp(theta.scale)[..., None, None] * correlations * both
    covariance.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    cholesky: Tensor
    cholesky, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():  # repeats of a point under a tiny noise
        covariance.diagonal(dim1=-2, dim2=-1).add_(0.05 * (failed > 0)[..., None])
        cholesky = torch.linalg.cholesky(covariance)
    return cholesky


def negative_log_posterior(
    cube: Cube, data: _Data, theta: Hyperparameters
) -> tuple[Tensor, Hyperparameters]:
    """Return minus log likelihood and log prior (B, 2), up to a constant, and its gradient.

    With A = K⁻¹ - a aᵀ, a = K⁻¹ y, the gradient of ½ yᵀ K⁻¹ y + ½ log |K| by any parameter t is
    ½ tr(A dK/dt) (Rasmussen & Williams, equation 5.9).
    """
    scaled = data.features * torch.exp(-_columns(cube, theta.lengthscale))[:, :, None]
    distances = _distances(scaled, scaled)
    correlations = _matern(distances)
    cholesky = _cholesky(correlations, theta, data.known)
    weights = torch.cholesky_solve(data.targets[..., None], cholesky)[..., 0]  # a
    loss = 0.5 * (data.targets * weights).sum(-1)
    loss = loss + cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    a = torch.cholesky_inverse(cholesky) - weights[..., :, None] * weights[..., None, :]
    own = (a.diagonal(dim1=-2, dim2=-1) * data.known).sum(-1)
    a = a * data.known[..., :, None] * data.known[..., None, :]
    scale, noise = torch.exp(theta.scale), torch.exp(theta.noise)
    by_noise = 0.5 * noise * own
    by_scale = 0.5 * scale * ((a * correlations).sum((-2, -1)) + _JITTER * own)
    # d Matérn / d log ℓ_e = 5/3 (1 + √5 r) exp(-√5 r) (difference in column e)²
    r = math.sqrt(5.0) * distances
    g = a * (5.0 / 3.0 * scale[..., None, None]) * (1.0 + r) * torch.exp(-r)
    by_column = (scaled * (g.sum(-1, keepdim=True) * scaled - g @ scaled)).sum(-2)
    slot = cube.column_slot[:, None].expand_as(by_column)
    by_lengthscale = torch.zeros_like(theta.lengthscale).scatter_add(2, slot, by_column)

    expected, noise_mean = _prior(cube)
    deviation = (theta.lengthscale - expected) * cube.movable[:, None]
    quiet = (theta.noise - noise_mean) / _NOISE_SD**2
    loss = loss + 0.5 * deviation.square().sum(-1)
    loss = loss + 0.5 * (theta.noise - noise_mean) * quiet + 0.5 * (theta.scale / _SCALE_SD) ** 2
    gradient = Hyperparameters(
        by_lengthscale + deviation, by_noise + quiet, by_scale + theta.scale / _SCALE_SD**2
    )
    return loss, gradient


def _prior(cube: Cube) -> tuple[Tensor, Tensor]:
    """Return the prior means of the log-lengthscales (B, 2, D) and of the log noise (B, 2)."""
    lengthscale = torch.tensor(_LENGTHSCALE).to(cube.start)
    noise = torch.tensor(_NOISE).to(cube.start)
    spread = 0.5 * cube.dim.clamp(min=1.0).log()
    expected = (lengthscale + spread[:, None])[..., None].expand(-1, -1, cube.slots)
    return expected, noise.expand(len(cube), -1)


def fit(history: History) -> Hyperparameters:
    """Return hyperparameters near the maximum of the posterior, by Adam from the prior's mean.

    Args:
        history: The first :func:`fitted_trials` trials of each study.
    """
    cube = history.cube
    expected, noise = _prior(cube)
    theta = Hyperparameters(expected, noise, torch.zeros_like(noise))
    if not len(history):
        return theta
    kept = kept_trials(history, _FIT_BEST, _FIT_LATEST)
    data, _ = _data(history, kept)
    first = [torch.zeros_like(part) for part in theta]
    second = [torch.zeros_like(part) for part in theta]
    bounds = ((-2.3, 5.0), (-7.0, 0.5), (-1.5, 1.5))
    for step in range(1, _STEPS + 1):
        _, gradient = negative_log_posterior(cube, data, theta)
        moved = []
        for part, slope, m, v, (low, high) in zip(
            theta, gradient, first, second, bounds, strict=True
        ):
            m.mul_(0.8).add_(slope, alpha=0.2)
            v.mul_(0.95).addcmul_(slope, slope, value=0.05)
            mean, spread = m / (1 - 0.8**step), (v / (1 - 0.95**step)).sqrt()
            moved.append((part - _LEARNING_RATE * mean / (spread + 1e-3)).clamp(low, high))
        theta = Hyperparameters(*moved)
    return theta


@dataclass(frozen=True, eq=False)
class Warp:
    """Monotone scales on which losses are modelled: standardised log(y - best + gap).

    The gap between the median and the best loss makes it free of unit and origin; the logarithm
    spreads the good end, where edits are decided, and keeps one terrible loss from swamping it.

    Attributes:
        best, gap: (B, 1) float64, in the unit of the losses.
        mean, sd: (B, 1) float64, of log((y - best + gap) / gap) over the losses it was made from.
        defined: (B, 1) bool, False where no two losses differ by what floats can divide by; all
            losses are then 0 on its scale.
    """

    best: Tensor
    gap: Tensor
    mean: Tensor
    sd: Tensor
    defined: Tensor

    @classmethod
    def of(cls, losses: Tensor, ran: Tensor) -> Warp:
        """Return the warp of the losses (B, n) of trials that ran (B, n)."""
        number = ran.sum(1, keepdim=True)
        if not losses.shape[1]:
            nothing = torch.zeros_like(number, dtype=torch.float64)
            return cls(nothing, nothing + 1.0, nothing, nothing + 1.0, number > 0)
        losses = torch.where(ran, losses, math.inf)
        best = torch.where(number > 0, losses.amin(1, keepdim=True), 0.0)
        # Halves first: the losses' range may be wider than the largest float.
        gaps = torch.where(ran, 0.5 * losses - 0.5 * best, math.inf).sort(dim=1).values
        last = gaps.gather(1, (number - 1).clamp(min=0))
        # Below the smallest normal float, halves and quotients of gaps are 0 / 0.
        defined = (number > 0) & (last > torch.finfo(torch.float64).tiny)
        half = gaps.gather(1, ((number - 1) // 2).clamp(min=0))
        mean = (torch.where(gaps.isinf(), 0.0, gaps) / number.clamp(min=1)).sum(1, keepdim=True)
        half = torch.where(half > 0.0, half, mean)
        half = half.maximum(1e-12 * last)  # the worst is at most log 1e12 above the best
        gap = torch.where(defined, (2.0 * half).clamp(max=torch.finfo(torch.float64).max), 1.0)
        unscaled = cls(best, gap, torch.zeros_like(gap), torch.ones_like(gap), defined)
        logs = torch.where(ran, unscaled(losses), 0.0)
        centre = logs.sum(1, keepdim=True) / number.clamp(min=1)
        squares = torch.where(ran, (logs - centre).square(), 0.0).sum(1, keepdim=True)
        sd = (squares / number.clamp(min=1)).sqrt().clamp(min=1e-3)
        return cls(best, gap, centre, sd, defined)

    def __call__(self, losses: Tensor) -> Tensor:
        """Return losses (B, m) on the modelled scale, lower is better."""
        excess = ((0.5 * losses - 0.5 * self.best) / (0.5 * self.gap)).clamp(min=_FLOOR - 1.0)
        return torch.where(self.defined, (excess.log1p() - self.mean) / self.sd, 0.0)

    def inverse(self, warped: Tensor) -> Tensor:
        """Return the losses of values (B, m) on the modelled scale."""
        return self.best + self.gap * torch.expm1(warped * self.sd + self.mean)


def kept_trials(history: History, best: int, latest: int) -> Tensor:
    """Return (B, m) ascending indices of the `best` best and, of the others, the latest."""
    n = len(history)
    order = torch.arange(n, device=history.points.device).expand(len(history.cube), n)
    if n <= best + latest:
        return order
    top = (history.ranks < best) & history.ran
    return (order + n * top).topk(best + latest, dim=1).indices.sort(dim=1).values


def _data(history: History, kept: Tensor) -> tuple[_Data, Warp]:
    """Return what both processes are conditioned on, and the warp of the kept losses."""
    ran, losses = history.ran.gather(1, kept), history.losses.gather(1, kept)
    warp = Warp.of(losses, ran)
    warped = _clipped(warp, losses, ran).to(history.points)
    known = torch.stack([ran, torch.ones_like(ran)], 1).to(history.points)
    crash = torch.where(ran, 1.0, -1.0).to(history.points) - _EXPECTED_TO_RUN
    targets = torch.stack([warped - _PESSIMISM, crash], 1) * known
    features = history.cube.features(history.at(kept))[:, None]
    return _Data(features, targets, known), warp


def _clipped(warp: Warp, losses: Tensor, ran: Tensor) -> Tensor:
    """Return warped losses (B, m) in [-3, 2.5], 0 where a trial did not run."""
    return torch.where(ran, warp(torch.where(ran, losses, warp.best)).clamp(-3.0, 2.5), 0.0)


class Surrogate:
    """Value and crash processes of B studies, fitted to their histories and nothing else.

    Args:
        history: Any, empty ones and those of failures only included.
        theta: The hyperparameters, where they are known: :func:`fit` of the first
            :func:`fitted_trials` trials.

    Attributes:
        trials: (B, n) history indices of the trials kept, ascending.
        ran: (B, n) bool, which of them ran.
        warped: (B, n) warped losses of the kept trials, clipped; 0 where a trial did not run.
        best: (B, 1) the warped loss to beat.
        theta: Hyperparameters of both processes.
        warp: The scale of the losses.
    """

    def __init__(self, history: History, theta: Hyperparameters | None = None) -> None:
        if theta is None:
            theta = fit(history.first(fitted_trials(len(history))))
        self._cube = history.cube
        self.theta = theta
        self.trials = kept_trials(history, _BEST, _LATEST)
        self._points = history.at(self.trials)
        data, self.warp = _data(history, self.trials)
        self.ran = data.known[:, 0] > 0.0
        self.warped = (data.targets[:, 0] + _PESSIMISM) * self.ran
        inverse = torch.exp(-_columns(self._cube, theta.lengthscale))[:, :, None]
        self._inverse_lengthscales = inverse
        self._scaled = data.features * inverse
        correlations = _matern(_distances(self._scaled, self._scaled))
        cholesky = _cholesky(correlations, theta, data.known)
        self._known = data.known
        both = torch.stack([data.targets, data.known], -1)
        self._weights, ones = torch.cholesky_solve(both, cholesky).unbind(-1)
        self._doubt_weights = ones[:, 0]
        # Predictions are many and matrix products fast: the factor is inverted once.
        identity = torch.eye(cholesky.shape[-1]).to(cholesky)
        self._whitener = torch.linalg.solve_triangular(cholesky, identity, upper=False)
        self.best = torch.zeros_like(theta.noise[:, :1])
        if len(history):
            # K a = y - noise a: the posterior mean at the trials themselves, from the solution.
            own = torch.exp(theta.noise) + _JITTER * torch.exp(theta.scale)
            smoothed = self.warped - own[:, :1] * self._weights[:, 0]
            lowest = [
                torch.where(self.ran, x, math.inf).amin(1, keepdim=True)
                for x in (smoothed, self.warped)
            ]
            best = _POSTERIOR_BEST * lowest[0] + (1.0 - _POSTERIOR_BEST) * lowest[1]
            self.best = torch.where(best.isfinite(), best, 0.0)

    @property
    def log_lengthscales(self) -> Tensor:
        """(B, D) of the value process."""
        return self.theta.lengthscale[:, 0]

    @property
    def log_noise(self) -> Tensor:
        """(B, 1) logarithm of the noise variance of the warped losses."""
        return self.theta.noise[:, :1]

    def predict(self, points: Tensor) -> Prediction:
        """Return what is expected of legal points (B, C, D)."""
        scaled = self._cube.features(points)[:, None] * self._inverse_lengthscales
        distances = _distances(scaled, self._scaled)
        scale = torch.exp(self.theta.scale)[..., None, None]
        cross = scale * _matern(distances) * self._known[..., None, :]
        means = (cross @ self._weights[..., None])[..., 0]
        explained = (cross @ self._whitener.mT).square().sum(-1)
        variances = (scale[..., 0] - explained).clamp(min=1e-6)
        margin = (means[:, 1] + _EXPECTED_TO_RUN) / (variances[:, 1] + 0.05).sqrt()
        return Prediction(
            means[:, 0] + _PESSIMISM,
            variances[:, 0].sqrt(),
            torch.special.ndtr(margin),
            distances[:, 0],
            1.0 - (cross[:, 0] @ self._doubt_weights[..., None])[..., 0],
        )

    def path(self, waves: Tensor, phases: Tensor, noise: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a draw from the value process, given the trials, as a function of points.

        A draw from the prior, a sum of cosines, is corrected by what it misses at the trials
        (Wilson et al., arXiv 2002.09309, equation 12).

        Args:
            waves: (B, M, E) frequencies in lengthscales; for Matérn-5/2 of a multivariate t
                distribution of 5 degrees of freedom.
            phases: (B, M), uniform over a circle.
            noise: (B, n) standard normal, of the kept trials.

        Returns:
            Of legal points (B, C, D), the warped losses (B, C), noise apart.
        """
        scale = torch.exp(self.theta.scale[:, 0])[:, None]
        height = (2.0 * scale / waves.shape[1]).sqrt()
        own = torch.exp(self.theta.noise[:, :1]) + _JITTER * scale
        known, whitener = self._known[:, 0], self._whitener[:, 0]

        def before(scaled: Tensor) -> Tensor:
            drawn: Tensor = height * torch.cos(scaled @ waves.mT + phases[:, None]).sum(-1)
            return drawn

        missed = self.warped - _PESSIMISM - before(self._scaled[:, 0]) - own.sqrt() * noise
        pull = whitener.mT @ (whitener @ (missed * known)[..., None])

        def path(points: Tensor) -> Tensor:
            scaled = self._cube.features(points) * self._inverse_lengthscales[:, 0]
            distances = _distances(scaled, self._scaled[:, 0])
            cross = scale[..., None] * _matern(distances) * known[:, None]
            losses: Tensor = _PESSIMISM + before(scaled) + (cross @ pull)[..., 0]
            return losses

        return path

    def slopes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return which way the value process falls at one point a study.

        Args:
            points: (B, D) legal points.

        Returns:
            Derivatives of the posterior mean by each slot, per lengthscale, and the share of
            their prior variance that the trials have explained; (B, D) each, 0 for choices.
        """
        cube = self._cube
        scaled = cube.features(points[:, None])[:, None] * self._inverse_lengthscales
        ahead = (scaled - self._scaled)[:, 0]  # (B, n, E)
        r = math.sqrt(5.0) * (ahead.square().sum(-1) + 1e-10).sqrt()
        scale = torch.exp(self.theta.scale[:, 0])
        factor = -5.0 / 3.0 * scale[:, None] * (1.0 + r) * torch.exp(-r) * self._known[:, 0]
        cross = factor[..., None] * ahead  # covariance of the derivative with each trial
        mean = (cross * self._weights[:, 0, :, None]).sum(1)
        explained = (self._whitener[:, 0] @ cross).square().sum(1) / (5.0 / 3.0 * scale[:, None])
        number = cube.column_choice == -1
        columns = torch.stack([mean * number, explained * number], 1)
        slot = cube.column_slot[:, None].expand_as(columns)
        by_slot = columns.new_zeros(len(cube), 2, cube.slots).scatter_add(2, slot, columns)
        return by_slot[:, 0], by_slot[:, 1]

    def log_acquisition(self, prediction: Prediction) -> Tensor:
        """Return (B, C) natural logarithms of how much edits promise."""
        return log_acquisition(self.best, *prediction[:3])

    def expected_gain(self, prediction: Prediction) -> Tensor:
        """Return the expected improvement on the best loss so far, in the losses' own unit.

        Returns:
            (B, C) float64, P(runs) × E[max(best - loss, 0)]; nan while no two losses differ.
        """
        mean, sd, p_runs = (part.double() for part in prediction[:3])
        ladder = (torch.arange(64, dtype=torch.float64, device=mean.device) + 0.5) / 64
        quantiles = torch.special.ndtri(ladder)
        warped = mean[..., None] + sd[..., None] * quantiles
        losses = self.warp.inverse(warped.flatten(1)).reshape(warped.shape)
        gain = (self.warp.best[..., None] - losses).clamp(min=0.0).mean(-1)
        return torch.where(self.warp.defined, p_runs * gain, math.nan)

    def warped_losses(self, losses: Tensor) -> Tensor:
        """Return losses (B, m) on the scale that the value process models, in [-3, 2.5]."""
        return _clipped(self.warp, losses, torch.ones_like(losses, dtype=torch.bool))


def believe(history: History, surrogate: Surrogate, points: Tensor) -> History:
    """Return histories in which edits under way have come to what is expected of them.

    What is tried already is then no longer unknown, so that several workers spread out
    ("kriging believer", Ginsbourger, Le Riche, Carraro, 2010). No edit is believed to beat the
    best trial: what is to be beaten was measured.

    Args:
        history: B studies, in each of which a trial ran.
        surrogate: Fitted to them.
        points: (B, r, D) legal points.
    """
    best = torch.where(history.ran, history.losses, math.inf).amin(1, keepdim=True)
    expected = surrogate.warp.inverse(surrogate.predict(points).mean.double())
    losses = torch.where(surrogate.warp.defined, expected.maximum(best), best)
    nobody = torch.full(points.shape[:2], -1, device=points.device)
    longer = {
        "points": torch.cat([history.points, points], 1),
        "losses": torch.cat([history.losses, losses], 1),
        "ran": torch.cat([history.ran, torch.ones_like(nobody, dtype=torch.bool)], 1),
        "parents": torch.cat([history.parents, nobody], 1),
    }
    return History(history.cube, **longer)


def log_acquisition(
    best: Tensor,
    mean: Tensor,
    sd: Tensor,
    p_runs: Tensor,
    xi: Tensor | float = 1.0,
    wider: Tensor | float = 1.0,
) -> Tensor:
    """Return log expected improvement + 2.5 log P(runs).

    Args:
        best: The warped loss to beat.
        mean, sd: Of the warped loss, without noise.
        p_runs: Probability that the trial runs.
        xi, wider: What the gain that counts as none, and the factor of `sd`, are multiplied by.
    """
    sd = _WIDER * wider * sd
    improvement = sd.log() + log_improvement((best - _XI * xi - mean) / sd)
    return improvement + _RUNS_POWER * p_runs.clamp(min=1e-6).log()


def log_improvement(u: Tensor) -> Tensor:
    """Return log(φ(u) + u Φ(u)), the log of the expected improvement of a unit normal.

    Below zero by the scaled complementary error function, where the plain form cancels.
    """
    x = u.double().clamp(min=-1e4)
    log_density = -0.5 * x.square() - 0.5 * math.log(2.0 * math.pi)
    below = x.clamp(max=0.0)
    tail = math.sqrt(0.5 * math.pi) * torch.special.erfcx(-below * math.sqrt(0.5))
    negative = log_density + torch.log1p((below * tail).clamp(min=-1.0 + 1e-12))
    # Of what is not taken no gradient must come that is no number.
    above = x.clamp(min=0.0)
    density = torch.exp(-0.5 * above.square()) / math.sqrt(2.0 * math.pi)
    plain = torch.log(density + above * torch.special.ndtr(above))
    return torch.where(x > 0.0, plain, negative).to(u.dtype)
