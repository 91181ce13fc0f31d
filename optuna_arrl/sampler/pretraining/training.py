"""Meta-training on whole studies of random tasks: how much to explore, imitation, then PPO.

First a search finds how much to explore in which state; see search.py. Then scores are learned
from the best next steps; see imitation.py. After that an iteration plays a batch of studies, every
task several times, and updates the whole network once by PPO:

    reward      r_t = log regret before - log regret after trial t, noise-free
    baseline    a critic that is told what the study itself is not: the true regret, the noise, and
                how the other studies of the same task went. It is not shipped.
    advantage   GAE over the study, with the critic's value after its last trial: a study is cut
                off, not over, so that the end teaches no greed
    loss        PPO's, with the likelihood of the outcomes; see ppo.py

The shipped value head is trained beside it on the rewards that a real study shows (rewards.py).
Iteration `i` of seed `s` is a function of both and of the weights before it: a run can stop after
any iteration and go on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
import io
import json
import math
from pathlib import Path
import time
from typing import Any

import torch
from torch import nn
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.ppo import Batch
from optuna_arrl.sampler.ppo import generalized_advantage
from optuna_arrl.sampler.ppo import ppo_update
from optuna_arrl.sampler.ppo import PPOConfig
from optuna_arrl.sampler.pretraining.drawing import draw_tasks
from optuna_arrl.sampler.pretraining.drawing import TRAINING_TASKS
from optuna_arrl.sampler.pretraining.episodes import Episodes
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.imitation import imitation_update
from optuna_arrl.sampler.pretraining.imitation import Teacher
from optuna_arrl.sampler.pretraining.search import search_gradient
from optuna_arrl.sampler.pretraining.tasks import log_regret
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.rewards import rewards
from optuna_arrl.sampler.surrogate import Surrogate


__all__ = ["Recipe", "Training", "go_on", "train"]

_CHECKPOINT_EVERY = 5  # iterations
_AHEAD = 12  # trials that the critic looks ahead in the other studies of a task
_CRITIC_FEATURES = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training run is made of.

    Attributes:
        seed: Of tasks, noise, candidates, choices and initial weights.
        tasks: Different tasks of an iteration of the shortest horizon; fewer of longer ones.
        repeats: Studies of each task, at least 2.
        candidates: To choose from at each trial; the search takes as many as a study.
        search_iterations, imitation_iterations, ppo_iterations: Of each stage, in this order.
        search_rate, imitation_rate, learning_rate: Step size of each stage's first iteration;
            within a stage it falls linearly to a tenth.
        horizons: Trials of a study, from the first iterations of a stage to its last ones.
        discount, gae_lambda: γ and λ of PPO's advantages. (The value head learns the study's own.)
        forecast_coefficient: Weight of the likelihood of the outcomes in PPO's loss.
    """

    seed: int = 0
    tasks: int = 32
    repeats: int = 3
    candidates: int = 96
    search_iterations: int = 150
    imitation_iterations: int = 100
    ppo_iterations: int = 100
    search_rate: float = 0.4
    imitation_rate: float = 3e-3
    learning_rate: float = 1e-3
    horizons: tuple[int, ...] = (30, 60, 100)
    discount: float = 0.995
    gae_lambda: float = 0.98
    forecast_coefficient: float = PPOConfig.forecast_coefficient

    @property
    def iterations(self) -> int:
        """All of them."""
        return self.search_iterations + self.imitation_iterations + self.ppo_iterations

    def stage(self, iteration: int) -> tuple[str, int, int]:
        """Return the name of an iteration's stage, its number within that, and the stage's length.

        Raises:
            IndexError: When there are not so many.
        """
        for name in ("search", "imitation", "ppo"):
            length: int = getattr(self, f"{name}_iterations")
            if iteration < length:
                return name, iteration, length
            iteration -= length
        raise IndexError("The training is at its end.")

    def rate(self, iteration: int) -> float:
        """Return the step size of an iteration."""
        name, number, length = self.stage(iteration)
        first = {"search": self.search_rate, "imitation": self.imitation_rate}
        return first.get(name, self.learning_rate) * (1.0 - 0.9 * number / length)

    def horizon(self, iteration: int) -> int:
        """Return the number of trials of an iteration's studies.

        A curriculum, gone through in every stage: `horizons` in their order while it goes on, but
        each alternates with the one before.
        """
        _, number, length = self.stage(iteration)
        step = number * len(self.horizons) // length
        return self.horizons[step - iteration % 2] if step > 0 else self.horizons[0]

    def different_tasks(self, horizon: int) -> int:
        """Return how many tasks an iteration's studies of `horizon` trials are about."""
        return round(self.tasks * math.sqrt(self.horizons[0] / horizon))

    def ppo(self) -> PPOConfig:
        """Return the constants of PPO's updates."""
        return PPOConfig(
            clip_range=0.15,
            entropy_coefficient=0.003,
            forecast_coefficient=self.forecast_coefficient,
            kl_coefficient=0.0,
            target_kl=0.05,
            epochs=2,
            minibatch_size=256,
            exploration_floor=0.0,
            sharpness=1.0,
        )


class Critic(nn.Module):
    """Values states from what only training knows; see :func:`_critic_features`."""

    def __init__(self, seed: int, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(_CRITIC_FEATURES, width),
                nn.Tanh(),
                nn.Linear(width, width),
                nn.Tanh(),
                nn.Linear(width, 1),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return values (...) of features (..., 10)."""
        value: Tensor = self.layers(features)[..., 0]
        return value


class _Searched(nn.Module):
    """What the search found, kept while the stages after it move all of the network.

    Imitation lets go of the acquisition (its scale falls from 4 to 1.7): right for the next step,
    wrong for a study. And what PPO does to the exploration cannot be told from chance. So both are
    put back after each stage, and what imitation has learned stands beside more of the acquisition
    than it was learned with (docs/LOG.md, 2026-11-30).
    """

    exploration: Tensor
    log_scale: Tensor

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.register_buffer("exploration", network.exploration.weight.detach().clone())
        self.register_buffer("log_scale", network.log_scale.detach().clone())

    @torch.no_grad()
    def put_back(self, network: PolicyNetwork) -> None:
        """Give a network the exploration and the scale that were kept."""
        network.exploration.weight.copy_(self.exploration)
        network.log_scale.copy_(self.log_scale)


class _Recorder:
    """A policy that draws at inverse temperature 1 and remembers states, choices and forecasts."""

    def __init__(self, network: PolicyNetwork, generator: torch.Generator) -> None:
        self.network, self.generator = network, generator
        self.inputs: list[PolicyInput] = []
        self.actions: list[Tensor] = []
        self.log_probs: list[Tensor] = []
        self.values: list[Tensor] = []
        self.surrogates: list[Surrogate] = []

    @torch.no_grad()
    def __call__(self, history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        state = policy_input(history, offered, surrogate)
        output = self.network(state)
        log_probs = action_distribution(output.logits, state.mask, floor=0.0, sharpness=1.0)
        action = torch.multinomial(log_probs.exp(), 1, generator=self.generator)
        self.inputs.append(state)
        self.actions.append(action[:, 0])
        self.log_probs.append(log_probs.gather(1, action)[:, 0])
        self.values.append(output.value)
        self.surrogates.append(surrogate)
        return action[:, 0]


class Training:
    """A training run that can be stopped and gone on with.

    Args:
        recipe: What it is made of.
        device: Where it computes.
        start: What it begins with and changes; default: a network that has learned nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        start: PolicyNetwork | None = None,
    ) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.network = (PolicyNetwork(recipe.seed) if start is None else start).to(self.device)
        self.searched = _Searched(self.network)
        self.critic = Critic(recipe.seed).to(self.device)
        self.optimizer = self._fresh_optimizer()
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=3e-3)
        self.iteration = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Run the iterations that are left; yield the figures of each."""
        while self.iteration < self.recipe.iterations:
            yield self._iterate()

    def checkpoint(self) -> bytes:
        """Return all that the rest of the run depends on."""
        buffer = io.BytesIO()
        state = [part.state_dict() for part in self._parts()]
        torch.save({"recipe": asdict(self.recipe), "at": self.iteration, "state": state}, buffer)
        return buffer.getvalue()

    def resume(self, checkpoint: Path) -> None:
        """Go on from what :meth:`checkpoint` returned, kept in a file.

        Raises:
            ValueError: When it is no checkpoint, or one of another recipe.
        """
        written = io.BytesIO(checkpoint.read_bytes())
        try:
            stored = torch.load(written, self.device, weights_only=True)
        except Exception as error:  # what the unpickler makes of any bytes
            raise ValueError(f"{checkpoint} is damaged: delete it to begin again.") from error
        if not isinstance(stored, dict) or stored.keys() != {"recipe", "at", "state"}:
            raise ValueError(f"{checkpoint} is no checkpoint of a training: take another folder.")
        if stored["recipe"] != asdict(self.recipe):
            raise ValueError(
                f"{checkpoint} is of another recipe, {stored['recipe']}: take another folder."
            )
        try:
            for part, state in zip(self._parts(), stored["state"], strict=True):
                part.load_state_dict(state)
        except (RuntimeError, ValueError) as error:  # other names or shapes
            raise ValueError(
                f"{checkpoint} is of another release, whose network has other weights: "
                "take another folder."
            ) from error
        self.iteration = stored["at"]

    def _parts(self) -> tuple[Any, ...]:
        return (
            *(self.network, self.searched, self.critic),
            *(self.optimizer, self.critic_optimizer),
        )

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.98))

    def _iterate(self) -> dict[str, Any]:
        recipe, began = self.recipe, time.perf_counter()
        horizon = recipe.horizon(self.iteration)
        stage, number, length = recipe.stage(self.iteration)
        if number == 0:
            self.optimizer = self._fresh_optimizer()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.iteration)
        learn = {"search": self._search, "imitation": self._imitate, "ppo": self._improve}[stage]
        played, figures, seconds = learn(
            horizon, TRAINING_TASKS + 10_000 * recipe.seed + self.iteration
        )
        if stage == "search":
            self.searched = _Searched(self.network)
        elif number == length - 1:
            self.searched.put_back(self.network)
        self.iteration += 1
        curve = played.log_regret.mean(0).tolist()
        marks = {f"log_regret_{n}": curve[n - 1] for n in (12, 25, 50, 100) if n <= horizon}
        return {
            "iteration": self.iteration,
            "stage": stage,
            "horizon": horizon,
            **{name: round(value, 4) for name, value in {**marks, **figures}.items()},
            "failures": round(1.0 - float(played.history.ran.float().mean()), 4),
            "scale": round(float(self.network.log_scale.detach().exp()), 3),
            "seconds_playing": round(seconds - began, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }

    def _tasks(self, horizon: int, seed: int, repeats: int) -> Tasks:
        """Return the tasks of an iteration, each as often as it is played at a time."""
        recipe = self.recipe
        different = recipe.different_tasks(horizon) * recipe.repeats // max(repeats, 2)
        return draw_tasks(different, seed, self.device)[
            torch.arange(different, device=self.device).repeat(repeats)
        ]

    def _search(self, horizon: int, seed: int) -> tuple[Episodes, dict[str, float], float]:
        """Play in pairs, and go up the gradient of the exploration weights."""
        recipe, weight = self.recipe, self.network.exploration.weight
        gradient, played = search_gradient(
            self.network, self._tasks(horizon, seed, repeats=1), horizon, seed
        )
        with torch.no_grad():
            weight.add_(gradient, alpha=recipe.rate(self.iteration))
        figures = {
            "gradient": float(gradient.norm()),
            "exploration": float(weight.detach().norm()),
        }
        return played, figures, time.perf_counter()

    def _imitate(self, horizon: int, seed: int) -> tuple[Episodes, dict[str, float], float]:
        """Play every task once, and learn the best next steps."""
        number = self.recipe.different_tasks(horizon) * self.recipe.repeats
        tasks = draw_tasks(number, seed, self.device)
        teacher = Teacher(self.network, tasks, torch.Generator(self.device).manual_seed(seed))
        played = play(tasks, horizon, seed, teacher, candidates=self.recipe.candidates)
        seconds = time.perf_counter()
        shuffle = torch.Generator().manual_seed(seed)
        loss = imitation_update(self.network, self.optimizer, teacher, shuffle)
        return played, {"imitation_loss": loss}, seconds

    def _improve(self, horizon: int, seed: int) -> tuple[Episodes, dict[str, float], float]:
        """Play, and update by PPO."""
        tasks, repeats = self._tasks(horizon, seed, self.recipe.repeats), self.recipe.repeats
        generator = torch.Generator(self.device).manual_seed(seed)
        recorder = _Recorder(self.network, generator)
        played = play(tasks, horizon, seed, recorder, candidates=self.recipe.candidates)
        seconds = time.perf_counter()
        config = self.recipe.ppo()
        advantage, explained = self._judge(tasks, played, repeats)
        batch = self._batch(played, recorder, advantage, config)
        shuffle = torch.Generator().manual_seed(seed)
        update = asdict(ppo_update(self.network, self.optimizer, batch, config, shuffle))
        del update["reference_kl"]
        return played, {"critic_explained": explained, **update}, seconds

    def _judge(self, tasks: Tasks, played: Episodes, repeats: int) -> tuple[Tensor, float]:
        """Return the advantages (B, n - 1), and what share of the returns' variance the critic
        explained; and let the critic learn from the studies.
        """
        features = _critic_features(tasks, played, repeats)
        with torch.no_grad():
            values = self.critic(features)
        gains = played.log_regret[:, :-1] - played.log_regret[:, 1:]
        advantage, target = generalized_advantage(
            gains, values[:, :-1], values[:, -1], self.recipe.discount, self.recipe.gae_lambda
        )
        self._fit_critic(features[:, :-1], target)
        explained = 1.0 - (target - values[:, :-1]).var() / target.var().clamp(min=1e-8)
        return advantage, float(explained)

    def _batch(
        self, played: Episodes, recorder: _Recorder, advantage: Tensor, config: PPOConfig
    ) -> Batch:
        """Return the steps to learn from, study after study within each trial number."""
        shown = _shown_rewards(played).to(self.device)
        own = torch.stack(recorder.values, 1)
        _, returns = generalized_advantage(
            shown[:, 1:-1], own[:, :-1], own[:, -1], config.discount, config.gae_lambda
        )
        # The value head learns the state before every trial but the last.
        returns = torch.cat([returns, own[:, -1:]], 1)
        history = played.history
        scores = [
            torch.where(ran, s.warped_losses(loss[:, None])[:, 0], math.nan)
            for s, loss, ran in zip(
                recorder.surrogates, history.losses.T[1:], history.ran.T[1:], strict=True
            )
        ]
        inputs = PolicyInput.cat(recorder.inputs)
        return Batch(
            inputs=inputs,
            action=torch.cat(recorder.actions),
            log_prob=torch.cat(recorder.log_probs),
            advantage=advantage.T.flatten().clamp(-4.0 * advantage.std(), 4.0 * advantage.std()),
            return_=returns.T.flatten(),
            reference=torch.zeros_like(inputs.mask, dtype=torch.float32),
            score=torch.cat(scores).float(),
            ran=history.ran.T[1:].flatten().float(),
        )

    def _fit_critic(self, features: Tensor, target: Tensor) -> None:
        for _ in range(20):
            loss = (self.critic(features) - target).square().mean()
            self.critic_optimizer.zero_grad()
            loss.backward()
            self.critic_optimizer.step()


def go_on(training: Training, checkpoint: Path, log: Path) -> None:
    """Bring a training to where its files are; without any it stays where it is.

    Args:
        training: One that has not begun.
        checkpoint, log: Files of :func:`train`.

    Raises:
        ValueError: When the checkpoint is none, or one of another recipe.
    """
    if checkpoint.exists():
        training.resume(checkpoint)
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        log.write_text("".join(lines[: training.iteration]))
    else:
        log.unlink(missing_ok=True)


def train(training: Training, checkpoint: Path, log: Path) -> Iterator[dict[str, Any]]:
    """Run a training to its end, so that it can be gone on with at any time.

    Args:
        training: Any.
        checkpoint: File that is replaced every few iterations.
        log: File that gets a line of JSON an iteration.

    Yields:
        The figures of each iteration.
    """
    for figures in training:
        with log.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        ended = training.iteration == training.recipe.iterations
        if ended or training.iteration % _CHECKPOINT_EVERY == 0:
            partial = checkpoint.with_suffix(".part")
            partial.write_bytes(training.checkpoint())
            partial.replace(checkpoint)
        yield figures


def _critic_features(tasks: Tasks, played: Episodes, repeats: int) -> Tensor:
    """Return (B, n, 10): what helps to foresee how far a study will come.

    Of the state after each trial: its true regret, that of the other studies of the same task then
    and some trials later, how late it is, the noise, the slots and how often trials failed.
    """
    curve = played.log_regret
    count, n = curve.shape
    groups = curve.reshape(repeats, -1, n)  # the rows of a task lie a batch of tasks apart
    others = (groups.sum(0) - groups).reshape(count, n) / (repeats - 1)
    later = torch.cat([others[:, _AHEAD:], others[:, -1:].expand(-1, min(_AHEAD, n))], 1)[:, :n]
    measured = torch.where(played.history.ran, played.history.losses, math.inf)
    seen = log_regret(measured.cummin(1).values.float())
    number = torch.arange(1.0, n + 1.0, device=curve.device).expand(count, n)
    failed = (~played.history.ran).float().cumsum(1) / number

    def wide(x: Tensor) -> Tensor:
        return x[:, None].expand(count, n)

    columns = (
        curve,
        seen,
        others,
        later,
        later - others,
        number.log() / 3.0,
        8.0 / (8.0 + number),
        wide((tasks.noise + 1e-3).log() / 3.0),
        wide(tasks.cube.dim.log() / 2.0),
        failed,
    )
    return torch.stack(columns, 2)


def _shown_rewards(played: Episodes) -> Tensor:
    """Return the rewards (B, n) that the studies themselves would show."""
    losses, ran = played.history.losses.tolist(), played.history.ran.tolist()
    return torch.tensor([rewards(a, b) for a, b in zip(losses, ran, strict=True)])
