"""What each part of the policy is worth: one left out at a time, on fresh tasks of its training.

    python -m benchmarks.retraining runs/retrained imitation ppo names trials process forecast
    python -m benchmarks.ablations run runs/ablations.jsonl --tasks 512 --retrained runs/retrained
    python -m benchmarks.ablations report runs/ablations.jsonl runs/ablations

Every variant plays the same tasks with the same noise and the same draws of candidates. The tasks'
seeds lie below those of training: nothing was learned on them. Interrupted, `run` goes on. With
other weights (--policy) it plays everything again but what has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Iterable
import copy
import functools
import inspect
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import _records
from benchmarks._arguments import at_least
from benchmarks._arguments import file
from benchmarks._arguments import folder
from benchmarks._arguments import growing_file
from benchmarks.retraining import retrained
from benchmarks.retraining import without_scores
from optuna_arrl.sampler import ARRLSampler
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.learner import shipped_policy
from optuna_arrl.sampler.policy import action_distribution
from optuna_arrl.sampler.policy import policy_input
from optuna_arrl.sampler.policy import PolicyInput
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.ppo import Batch
from optuna_arrl.sampler.ppo import ppo_update
from optuna_arrl.sampler.ppo import PPOConfig
from optuna_arrl.sampler.pretraining.checking import as_in_a_study
from optuna_arrl.sampler.pretraining.checking import highest_seed
from optuna_arrl.sampler.pretraining.checking import SIDE_BY_SIDE
from optuna_arrl.sampler.pretraining.checking import summarise
from optuna_arrl.sampler.pretraining.drawing import draw_tasks
from optuna_arrl.sampler.pretraining.episodes import Choose
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.rewards import rewards
from optuna_arrl.sampler.surrogate import Surrogate


_MARKS = (12, 25, 50, 100, 300)
_AGAINST = ("acquisition alone", "whole network", "imitation only")
# What plays alike whatever the policy's weights are, and is played once for all of them.
_UNTRAINED = ("acquisition alone", "random edits")
_NO_WEIGHTS = "none"

# What is compared → seed of a lot → trials → log regret of every task.
_Table = dict[str, dict[int, dict[str, list[float]]]]
# Trials that a study's update learns from: as many as by default.
_BATCH = inspect.signature(ARRLSampler).parameters["batch_size"].default


def _random(seed: int) -> Choose:
    """Return the policy that takes any of the edits at random."""
    generator = torch.Generator().manual_seed(seed)

    def choose(history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        state = policy_input(history, offered, surrogate)
        edits = (state.mask & ~state.floor_only).float()
        return torch.multinomial(edits, 1, generator=generator)[:, 0]

    return choose


@torch.no_grad()
def _same_everywhere(network: PolicyNetwork) -> PolicyNetwork:
    """Return a copy that explores in every state as in the average one."""
    copied = copy.deepcopy(network)
    copied.exploration.weight[:, 1:] = 0.0
    return copied


class Learning:
    """The policy as it goes on learning: every study has a network of its own.

    Args:
        network: What each study begins with.
        seed: Of the draws.
        config: Constants of the updates.
        studies: B.
    """

    def __init__(self, network: PolicyNetwork, seed: int, config: PPOConfig, studies: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.config = config
        self.reference = network
        self.networks = [copy.deepcopy(network).requires_grad_(True) for _ in range(studies)]
        self.optimizers = [
            torch.optim.Adam(n.parameters(), lr=config.learning_rate) for n in self.networks
        ]
        self.steps: list[tuple[PolicyInput, Tensor, Tensor, Tensor, Surrogate]] = []
        self.kl: list[float] = []

    def __call__(self, history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
        """Choose, after learning from the last trials where enough have ended."""
        state = policy_input(history, offered, surrogate)
        rows = torch.arange(len(self.networks))
        if len(history) > 1 and (len(history) - 1) % _BATCH == 0:
            self._learn(history, state)
        with torch.no_grad():
            outputs = [n(state[rows[i : i + 1]]) for i, n in enumerate(self.networks)]
        logits = torch.cat([output.logits for output in outputs])
        values = torch.cat([output.value for output in outputs])
        log_probs = action_distribution(logits, state.mask)
        action = torch.multinomial(log_probs.exp(), 1, generator=self.generator)
        chosen = log_probs.gather(1, action)[:, 0]
        self.steps = [*self.steps, (state, action[:, 0], chosen, values, surrogate)][-_BATCH:]
        return action[:, 0]

    def _learn(self, history: History, state: PolicyInput) -> None:
        steps, config = self.steps, self.config
        for i, (network, optimizer) in enumerate(zip(self.networks, self.optimizers, strict=True)):
            row = torch.tensor([i])
            losses, ran = history.losses[i], history.ran[i]
            with torch.no_grad():
                last = network(state[row]).value
            score = [
                float(step[4].warped_losses(history.losses[:, t - _BATCH, None])[i])
                if ran[t - _BATCH]
                else math.nan
                for t, step in enumerate(steps)
            ]
            batch = Batch.of_study(
                PolicyInput.cat([step[0][row] for step in steps]),
                action=torch.cat([step[1][row] for step in steps]),
                log_prob=torch.cat([step[2][row] for step in steps]),
                rewards=torch.tensor(rewards(losses.tolist(), ran.tolist())[-_BATCH:]),
                values=torch.cat([step[3][row] for step in steps]),
                last_value=last[0],
                score=torch.tensor(score),
                ran=ran[-_BATCH:].float(),
                shipped=self.reference,
                config=config,
            )
            shuffle = torch.Generator().manual_seed(len(history))
            ppo_update(network, optimizer, batch, config, shuffle)
            with torch.no_grad():
                now = action_distribution(network(batch.inputs).logits, batch.inputs.mask)
            difference = now.exp() * (now - batch.reference)
            self.kl.append(float(difference.masked_fill(~batch.inputs.mask, 0.0).sum(1).mean()))


def variants(network: PolicyNetwork) -> dict[str, Callable[[int, int], Choose]]:
    """Return name → policy of (seed, number of studies)."""
    acquisition = PolicyNetwork()
    return {
        "acquisition alone": lambda seed, _: as_in_a_study(acquisition, seed),
        "whole network": lambda seed, _: as_in_a_study(network, seed),
        "exploration alone, no scores": lambda seed, _: as_in_a_study(
            without_scores(network), seed
        ),
        "explores alike in every state": lambda seed, _: as_in_a_study(
            _same_everywhere(network), seed
        ),
        "random edits": lambda seed, _: _random(seed),
        "PPO in the study": lambda seed, studies: Learning(network, seed, PPOConfig(), studies),
    }


def _drawing(network: PolicyNetwork, seed: int, studies: int) -> Choose:
    return as_in_a_study(network, seed)


def run(args: argparse.Namespace) -> None:
    """Play what is missing."""
    try:
        policy = shipped_policy(args.policy)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--policy {args.policy}: {error}") from error
    if args.retrained is not None and not any(args.retrained.glob("*.safetensors")):
        raise SystemExit(f"{args.retrained} holds no weights: `benchmarks.retraining` first.")
    policies = variants(policy.network)
    weights = dict.fromkeys(policies, policy.sha256[:12])
    weights |= dict.fromkeys(_UNTRAINED, _NO_WEIGHTS)
    for label, (digest, network) in retrained(args.retrained).items():
        policies[label] = functools.partial(_drawing, network)
        weights[label] = f"{policy.sha256[:12]}, {digest}"
    chosen = args.variants or list(policies)
    if unknown := [name for name in chosen if name not in policies]:
        raise SystemExit(f"There is no variant {unknown[0]!r}, only: {', '.join(policies)}.")
    records = _records.load(args.records)
    done = {(r["variant"], r["weights"], r["seed"], r["trials"]) for r in records}
    if args.seed > (highest := highest_seed(args.tasks)):
        raise SystemExit(
            f"--seed {args.seed} gives tasks to learn on, not to judge by: with --tasks "
            f"{args.tasks} it may be {highest} at most."
        )
    for lot in range(math.ceil(args.tasks / SIDE_BY_SIDE)):
        seed = args.seed + lot
        for name in chosen:
            if (name, weights[name], seed, args.trials) in done:
                continue
            drawn = draw_tasks(SIDE_BY_SIDE, seed)
            choose = policies[name](seed, SIDE_BY_SIDE)
            curve = play(drawn, args.trials, seed, choose).log_regret
            marks = [mark for mark in _MARKS if mark <= args.trials]
            record: dict[str, Any] = {"variant": name, "weights": weights[name]}
            record |= {"seed": seed, "trials": args.trials}
            record["log_regret"] = {
                str(mark): [round(x, 5) for x in curve[:, mark - 1].tolist()] for mark in marks
            }
            if isinstance(choose, Learning) and choose.kl:
                record["kl"] = sum(choose.kl) / len(choose.kl)
            _records.append(args.records, record)
            means = "  ".join(f"{mark}: {curve[:, mark - 1].mean():+.3f}" for mark in marks)
            print(f"{seed} {name}: {means}", flush=True)


def report(args: argparse.Namespace) -> None:
    """Print, by weights and length, every variant less the most important ones; write and draw.

    Where there are studies of several lengths, of all together too; and where there are several
    policies, these less each other, of all lengths.
    """
    records = _records.load(args.records)
    if not records:
        raise SystemExit(f"{args.records} holds nothing to report: `run` first.")
    # Of what was trained anew more than once, the last that was played beside a policy.
    newest = {(r["variant"], _policy(r)): r["weights"] for r in records}
    records = [r for r in records if r["weights"] == newest[r["variant"], _policy(r)]]
    policies = list(dict.fromkeys(map(_policy, records)))
    if policies != [_NO_WEIGHTS]:
        policies = [policy for policy in policies if policy != _NO_WEIGHTS]
    parts: list[dict[str, Any]] = []
    for policy in policies:
        own = {(r["seed"], r["trials"]) for r in records if _policy(r) == policy}
        together = [
            r
            for r in records
            if _policy(r) in (policy, _NO_WEIGHTS) and (r["seed"], r["trials"]) in own
        ]
        lengths = sorted({trials for _, trials in own})
        # A study does not know how long it will be: those of all lengths are of one kind.
        for trials in [*lengths, *([None] if len(lengths) > 1 else [])]:
            part = [r for r in together if trials in (None, r["trials"])]
            parts.append({"policy": policy, "trials a study": trials} | _figures(part))
    for part in parts:
        _print(part)
    networks = _by_lot((_policy(r), r) for r in records if r["variant"] == "whole network")
    last = list(networks)[-1:]
    beside = {f"whole network of {policy}": _less(networks, policy) for policy in last}
    for name, compared in beside.items():
        _print_table(name, compared)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"policies": parts} | {f"less {name}": table for name, table in beside.items()}
    text = json.dumps(result, indent=1) + "\n"
    args.out.with_name(args.out.name + ".json").write_text(text, encoding="utf-8")
    # A panel a policy: studies of all its lengths together, which come last.
    panels = list({part["policy"]: part for part in parts}.values())
    _draw(panels, args.out.with_name(args.out.name + ".png"))


def _policy(record: dict[str, Any]) -> str:
    """Return the weights of the policy that a variant is of, or was played beside."""
    policy: str = record["weights"].split(",")[0]
    return policy


def _figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return against what → variant → trials → the difference of log regrets."""
    table = _by_lot((record["variant"], record) for record in records)
    result: dict[str, Any] = {f"less {against}": _less(table, against) for against in _AGAINST}
    kls = [record["kl"] for record in records if "kl" in record]
    if kls:
        result["mean KL of PPO in the study"] = float(f"{sum(kls) / len(kls):.2g}")
    return result


def _by_lot(named: Iterable[tuple[str, dict[str, Any]]]) -> _Table:
    """Return what was played; a shorter study of a lot is the beginning of a longer one."""
    table: _Table = {}
    for name, record in named:
        lot = table.setdefault(name, {}).setdefault(record["seed"], {})
        lot |= record["log_regret"]
    return table


def _less(table: _Table, against: str) -> dict[str, dict[str, list[float]]]:
    """Return what is compared → trials → its difference to one of them on the lots of both.

    A difference is its mean, half its 95 % interval, p of a two-sided paired t test, and the
    number of tasks.
    """
    lots = table.get(against, {})
    compared: dict[str, dict[str, list[float]]] = {}
    for name, other in table.items():
        shared = sorted(other.keys() & lots.keys())
        if name == against or not shared:
            continue
        compared[name] = {}
        for mark in map(str, _MARKS):
            pairs = [(other[lot], lots[lot]) for lot in shared]
            differences = [
                torch.tensor(a[mark]) - torch.tensor(b[mark])
                for a, b in pairs
                if mark in a and mark in b
            ]
            if not differences:
                continue
            difference = torch.cat(differences)
            (row,) = summarise(difference[:, None], [1])
            compared[name][mark] = [
                *(round(row.mean, 6), round(row.half_width, 6)),
                *(float(f"{row.p:.2g}"), row.tasks),
            ]
    return compared


def _print(part: dict[str, Any]) -> None:
    print(f"\n{_title(part)}:")
    for against in _AGAINST:
        _print_table(against, part[f"less {against}"])
    if (kl := part.get("mean KL of PPO in the study")) is not None:
        print(f"\nPPO in the study: mean KL to the policy that it began with {kl} nats")


def _print_table(against: str, compared: dict[str, dict[str, list[float]]]) -> None:
    if not compared:
        return
    marks = max(compared.values(), key=len)
    print(f"\n| log regret less that of: {against} | {' | '.join(marks)} | tasks |")
    print(f"|---|{'---|' * len(marks)}---|")
    for name, figures in compared.items():
        cells = [
            "{:+.3f} ± {:.3f} ({:g})".format(*figures[mark]) if mark in figures else "–"
            for mark in marks
        ]
        print(f"| {' | '.join([name, *cells])} | {_tasks(figures)} |")


def _title(part: dict[str, Any]) -> str:
    trials = part["trials a study"]
    length = "all lengths" if trials is None else f"{trials} trials"
    return f"Policy {part['policy']}, studies of {length}"


def _tasks(figures: dict[str, list[float]]) -> str:
    """Return the number of tasks, or that at each mark."""
    numbers = [f"{count:,}" for *_, count in figures.values()]
    return numbers[0] if len(set(numbers)) == 1 else ", ".join(numbers)


def _draw(parts: list[dict[str, Any]], path: Path) -> None:
    """Draw every variant less the acquisition alone, with its interval, against trials."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for part in parts for name in part[f"less {_AGAINST[0]}"]))
    columns = min(2, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(6.5 * columns, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, part in zip(axes.flat, parts, strict=False):
        marks: list[str] = []
        for name, figures in part[f"less {_AGAINST[0]}"].items():
            marks = max(marks, list(figures), key=len)
            index = names.index(name)
            # Side by side, so that no interval hides another.
            aside = 0.05 * (index - len(names) / 2)
            axis.errorbar(
                [place + aside for place in range(len(figures))],
                [difference for difference, *_ in figures.values()],
                yerr=[half for _, half, *_ in figures.values()],
                fmt="o-" if index < 10 else "s--",  # there are ten colors
                markersize=3,
                linewidth=1,
                color=f"C{index % 10}",
                label=f"{name} ({_tasks(figures)})",
            )
        axis.axhline(0.0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(marks)), marks)
        axis.set_yscale("symlog", linthresh=0.1)  # what lacks the Gaussian process is far off
        axis.set_title(_title(part))
        axis.set_xlabel("trials")
        axis.set_ylabel(f"log regret less that of {_AGAINST[0]}")
        if marks:
            axis.legend(frameon=False, fontsize="x-small")
    for axis in axes.flat[len(parts) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("records", type=growing_file)
    command.add_argument(
        "--tasks", type=at_least(1), default=512, help="in lots of 64, the last one whole too"
    )
    command.add_argument("--trials", type=at_least(min(_MARKS)), default=50)
    command.add_argument(
        "--seed", type=at_least(0), default=90_000, help="of the first lot of tasks"
    )
    command.add_argument("--policy", default=None, help="default: the shipped weights")
    command.add_argument("--retrained", type=folder, help="folder of benchmarks.retraining")
    command.add_argument("--variants", nargs="*", help="default: all")
    command.set_defaults(do=run)
    command = commands.add_parser("report")
    command.add_argument("records", type=file)
    command.add_argument("out", type=Path, help="OUT.json and OUT.png are written")
    command.set_defaults(do=report)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.do(args)


if __name__ == "__main__":
    main()
