"""How the prior mean learns: from what candidates would have come to, seen and remembered.

Of a real trial one outcome is known, of a random task those of all candidates. They are asked for
in states that the policy itself comes to as its prior improves, and kept: an outcome that is
looked at often teaches more than many that are looked at once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import FEATURES
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["Memory", "Witness", "learn_prior", "prior_loss"]

_EVERY = 3  # of three states one is remembered: neighbours are much alike
_ASKED_BEST = 16
_ASKED_OTHERS = 0.2  # share
_MINIBATCH = 256
_DEGREES = 4.0  # of freedom, of the t distribution that outcomes are expected to have


class Memory:
    """The latest states, with the outcomes of a part of their candidates, in half precision.

    Args:
        capacity: How many states are kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._inputs: PolicyInput | None = None
        self._outcomes: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._inputs is None else len(self._inputs.mask)

    def add(self, inputs: PolicyInput, outcomes: Tensor) -> None:
        """Remember N states, and forget the oldest that are too many.

        Args:
            inputs: The states, all with C candidates.
            outcomes: (N, C) warped losses, nan where unknown.
        """
        inputs = inputs.map(lambda part: part if part.dtype == torch.bool else part.half())
        outcomes = outcomes.half()
        if self._inputs is not None and self._outcomes is not None:
            kept = slice(max(len(self) + len(outcomes) - self.capacity, 0), None)
            inputs = PolicyInput.cat([self._inputs.map(lambda part: part[kept]), inputs])
            outcomes = torch.cat([self._outcomes[kept], outcomes])
        self._inputs, self._outcomes = inputs, outcomes

    def sample(self, count: int, generator: torch.Generator) -> tuple[PolicyInput, Tensor]:
        """Return states and outcomes, drawn with replacement."""
        assert self._inputs is not None and self._outcomes is not None
        device = self._outcomes.device
        rows = torch.randint(len(self), (count,), generator=generator).to(device)
        inputs = self._inputs[rows]
        single = inputs.map(lambda part: part if part.dtype == torch.bool else part.float())
        return single, self._outcomes[rows].float()


class Witness:
    """A policy that draws at inverse temperature 1 and asks what others would have come to.

    Args:
        network: Whose policy it is.
        tasks: What is played.
        generator: Of the draws.
    """

    def __init__(self, network: PolicyNetwork, tasks: Tasks, generator: torch.Generator) -> None:
        self.network, self.tasks, self.generator = network, tasks, generator
        first = torch.randint(_EVERY, (1,), generator=generator, device=generator.device)
        self.first = int(first)
        self.inputs: list[PolicyInput] = []
        self.outcomes: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        state = policy_input(history, offered, surrogate)
        logits = self.network(state).logits
        odds = action_distribution(logits, state.mask, floor=0.0, sharpness=1.0).exp()
        if len(history) % _EVERY == self.first:
            self.inputs.append(state)
            self.outcomes.append(self._outcomes(state, offered, surrogate))
        return torch.multinomial(odds, 1, generator=self.generator)[:, 0]

    def _outcomes(self, state: PolicyInput, offered: Candidates, surrogate: Surrogate) -> Tensor:
        """Return the warped losses (B, C) of the best candidates and some others, else nan.

        What matters is which of the good ones is better, but the prior must not go wild
        elsewhere either.
        """
        liked = state.features[..., FEATURES.index("acquisition")].masked_fill(
            state.floor_only | ~state.mask, -math.inf
        )
        rank = (-liked).argsort(1).argsort(1)
        lot = torch.rand(rank.shape, generator=self.generator, device=rank.device)
        asked = state.mask & ((rank < _ASKED_BEST) | (lot < _ASKED_OTHERS))
        regrets, ran = self.tasks.evaluate(offered.points)
        losses = surrogate.warped_losses(self.tasks.measure(regrets, self.generator)).float()
        return torch.where(asked & ran, losses, math.nan)


def prior_loss(network: PolicyNetwork, inputs: PolicyInput, score: Tensor) -> Tensor:
    """Return minus the log-likelihood of outcomes, up to what the prior mean has no part in.

    Outcomes have a t distribution about the posterior mean, as wide as the surrogate says.

    Args:
        network: Whose prior mean it is.
        inputs: N states.
        score: (N, C) warped losses, nan where unknown.
    """
    mean, log_sd, _ = inputs.forecast.unbind(-1)
    measured = 0.5 * torch.logaddexp(2.0 * log_sd, inputs.aim[..., 1:].expand_as(log_sd))
    known = score.isfinite()
    z = (torch.where(known, score, mean) - mean - network.prior(inputs)) * torch.exp(-measured)
    loss = 0.5 * (_DEGREES + 1.0) * torch.log1p(z.square() / _DEGREES)
    return (torch.where(known, loss, 0.0).sum(-1) / known.sum(-1).clamp(min=1)).mean()


def learn_prior(
    network: PolicyNetwork,
    optimizer: torch.optim.Optimizer,
    memory: Memory,
    steps: int,
    generator: torch.Generator,
) -> float:
    """Raise the likelihood of what is remembered; return the mean loss.

    Args:
        network: Its prior mean is updated in place.
        optimizer: Over its parameters.
        memory: Not empty.
        steps: Minibatches.
        generator: Draws them; on the CPU.
    """
    total = 0.0
    for _ in range(steps):
        loss = prior_loss(network, *memory.sample(_MINIBATCH, generator))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach())
    return total / steps
