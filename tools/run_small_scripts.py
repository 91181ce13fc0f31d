"""Runs small training scripts of our own, a second each, for the policy to learn on.

    python tools/run_small_scripts.py run runs/scripts.jsonl --worlds 0-63 --runs 100
    python tools/run_small_scripts.py pack runs/scripts.jsonl

A *world* is a training problem drawn from its number: byte models (perceptron, convolution or
transformer) of Python's own sources or of a random grammar, or a perceptron on points that a
random network has labelled; an optimizer; a budget of processor seconds; a memory limit; and 8 to
22 hyperparameters with names and bounds, the others fixed. A *run* is one configuration. Half of a
world's runs are uniform draws; the others move one to four hyperparameters of one of the better
runs so far, so that the good end is known too. Interrupted, `run` goes on; worlds can be run by
several processes, a file each. `arrl pretrain` reads what `pack` makes of all files
(docs/pretraining.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
import itertools
import json
import math
from pathlib import Path
import sysconfig
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch import Tensor
import torch.nn.functional as F


OUTPUT = Path(__file__).parents[1] / "optuna_arrl/sampler/pretraining/runs.npz"

_VOCABULARY = 96
_EVALUATED = 4096  # predictions of the validation loss
_DIVERGED = 1.05  # times the loss of the uniform guess


@dataclass(frozen=True)
class Slot:
    """A hyperparameter: bounds of a number, or choices."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    integer: bool = False
    choices: tuple[str, ...] = ()

    def value(self, unit: float) -> Any:
        """Return the value at a place in [0, 1]."""
        if self.choices:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if not self.integer:
            return self._between(self.low, self.high, unit)
        # As Optuna's transform: half a unit beyond the bounds.
        whole = round(self._between(self.low - 0.5, self.high + 0.5, unit))
        return int(min(max(whole, self.low), self.high))

    def unit(self, value: Any) -> float:
        """Return the place of a value: of an integer in the middle of what becomes it."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        half = 0.5 if self.integer else 0.0
        low, high = self.low - half, self.high + half
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def _between(self, low: float, high: float, unit: float) -> float:
        if self.log:
            return math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
        return low + unit * (high - low)


@dataclass(frozen=True)
class World:
    """A training problem.

    Attributes:
        number: It is drawn from it.
        model: Of "perceptron", "convolution", "transformer", "points".
        optimizer: Of "adam", "sgd".
        seconds: Processor time of a training.
        memory: Most numbers that weights, their optimizer and activations may take.
        slots: What is searched.
        fixed: All other hyperparameters.
    """

    number: int
    model: str
    optimizer: str
    seconds: float
    memory: float
    slots: tuple[Slot, ...]
    fixed: dict[str, Any]


def draw_world(number: int) -> World:
    """Return the world of a number."""
    rng = np.random.default_rng([0x776F726C64, number])
    model = str(rng.choice(["perceptron", "convolution", "transformer", "transformer", "points"]))
    optimizer = "sgd" if model != "transformer" and rng.random() < 0.3 else "adam"
    rate = (3e-3, 10.0) if optimizer == "sgd" else (1e-4, 0.1)
    bytes_ = model != "points"
    slots = [
        Slot("learning_rate", *rate, log=True),
        Slot("batch_size", 4, 256, log=True, integer=True),
        Slot("n_layer", 1, 8, integer=True),
        Slot("width", 16, 256, log=True, integer=True),
        Slot("weight_decay", 1e-4, 1.0, log=bool(rng.random() < 0.7)),
        Slot("dropout", 0.0, 0.5),
        Slot("init_scale", 0.1, 4.0, log=True),
        Slot("warmup", 0.0, 0.5),
        Slot("warmdown", 0.0, 1.0),
        Slot("final_lr_frac", 0.0, 1.0),
        Slot("grad_clip", 0.05, 20.0, log=True),
        Slot("beta1" if optimizer == "adam" else "momentum", 0.0, 0.99),
        Slot("label_smoothing", 0.0, 0.3),
        Slot("activation", choices=("relu", "gelu", "tanh", "relu2")),
        Slot("norm", choices=("layer", "none", "rms")),
    ]
    if optimizer == "adam":
        slots += [Slot("beta2", 0.8, 0.999), Slot("eps", 1e-10, 1e-3, log=True)]
    if bytes_:
        slots += [
            Slot("embedding_lr", rate[0], 3.0 * rate[1], log=True),
            Slot("context", 4, 128, log=True, integer=True),
            Slot("softcap", 3.0, 100.0, log=True),
        ]
    if model == "transformer":
        slots += [Slot("n_head", 1, 8, integer=True), Slot("mlp_ratio", 1.0, 6.0)]
    if model == "convolution":
        slots += [Slot("kernel_width", 2, 8, integer=True)]
    defaults: dict[str, Any] = {
        "learning_rate": 0.3 if optimizer == "sgd" else 3e-3,
        "embedding_lr": 0.5 if optimizer == "sgd" else 1e-2,
        "batch_size": 32, "n_layer": 2, "width": 64, "weight_decay": 0.01, "dropout": 0.0,
        "init_scale": 1.0, "warmup": 0.05, "warmdown": 0.5, "final_lr_frac": 0.0,
        "grad_clip": 1.0, "beta1": 0.9, "momentum": 0.9, "beta2": 0.98, "eps": 1e-8,
        "label_smoothing": 0.0, "activation": "gelu", "norm": "layer", "context": 32,
        "softcap": 30.0, "n_head": 4, "mlp_ratio": 4.0, "kernel_width": 4,
    }  # fmt: skip
    always = {"learning_rate", "batch_size", "n_layer", "width"}
    share = rng.uniform(0.4, 1.0)
    return World(
        number=number,
        model=model,
        optimizer=optimizer,
        seconds=float(math.exp(rng.uniform(math.log(0.25), math.log(0.8)))),
        memory=float(math.exp(rng.uniform(math.log(2e6), math.log(5e7)))),
        slots=tuple(s for s in slots if s.name in always or rng.random() < share),
        fixed=defaults,
    )


def texts(world: World) -> tuple[Tensor, Tensor]:
    """Return training and validation bytes of a world."""
    rng = np.random.default_rng([0x74657874, world.number])
    if rng.random() < 0.6:
        folder = Path(sysconfig.get_path("stdlib"))
        files = sorted(folder.glob("*.py"))
        chosen = [files[i] for i in rng.permutation(len(files))[:40]]
        raw = b"".join(path.read_bytes()[:40_000] for path in chosen)
        data = np.frombuffer(raw, np.uint8)
        data = np.where(data == 10, 0, np.clip(data.astype(int) - 31, 0, _VOCABULARY - 1))
    else:  # a random grammar: a Markov chain of order 2 with few successors
        successors = rng.integers(0, _VOCABULARY, (_VOCABULARY, 8, 4))
        data = np.zeros(400_000, int)
        draw = rng.choice(4, len(data), p=[0.6, 0.2, 0.15, 0.05])
        for i in range(2, len(data)):
            data[i] = successors[data[i - 1], data[i - 2] % 8, draw[i]]
    cut = len(data) * 9 // 10
    return torch.from_numpy(data[:cut].copy()), torch.from_numpy(data[cut:].copy())


class Norm(nn.Module):
    """One of three normalisations."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind, self.width = kind, width

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (self.width,))
        return F.rms_norm(x, (self.width,)) if self.kind == "rms" else x


class Block(nn.Module):
    """A residual block: attention, a causal convolution or nothing, then a perceptron."""

    def __init__(self, model: str, h: dict[str, Any], width: int, heads: int) -> None:
        super().__init__()
        self.model, self.heads, self.dropout = model, heads, h["dropout"]
        self.norms = nn.ModuleList([Norm(h["norm"], width) for _ in range(2)])
        inner = max(int(width * h["mlp_ratio"]), 4) if model == "transformer" else width
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.act = activation(h["activation"])
        if model == "transformer":
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        elif model == "convolution":
            self.reach = h["kernel_width"]
            self.conv = nn.Conv1d(width, width, self.reach)

    def forward(self, x: Tensor) -> Tensor:
        if self.model == "transformer":
            b, t, w = x.shape
            q, k, v = (
                part.reshape(b, t, self.heads, -1).transpose(1, 2)
                for part in self.qkv(self.norms[0](x)).chunk(3, -1)
            )
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self._drop(self.out(read.transpose(1, 2).reshape(b, t, w)))
        elif self.model == "convolution":
            padded = F.pad(self.norms[0](x).transpose(1, 2), (self.reach - 1, 0))
            x = x + self._drop(self.act(self.conv(padded)).transpose(1, 2))
        return x + self._drop(self.down(self.act(self.up(self.norms[1](x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Model(nn.Module):
    """Bytes or points in, logits out."""

    def __init__(self, world: World, h: dict[str, Any], inputs: int, classes: int) -> None:
        super().__init__()
        heads = h["n_head"] if world.model == "transformer" else 1
        width = max(h["width"] // heads, 2) * heads
        self.kind, self.softcap = world.model, h["softcap"]
        if world.model == "points":
            self.embed: nn.Module = nn.Linear(inputs, width)
        else:
            self.embed = nn.Embedding(_VOCABULARY, width)
        if world.model == "transformer":
            self.place = nn.Parameter(torch.zeros(h["context"], width))
        if world.model == "perceptron":
            self.join = nn.Linear(h["context"] * width, width)
        blocks = [Block(world.model, h, width, heads) for _ in range(h["n_layer"])]
        self.blocks, self.norm = nn.ModuleList(blocks), Norm(h["norm"], width)
        self.head = nn.Linear(width, classes)
        with torch.no_grad():
            for part in self.modules():
                if isinstance(part, nn.Linear | nn.Conv1d):
                    fan = part.weight[0].numel()
                    part.weight.normal_(0.0, h["init_scale"] / math.sqrt(fan))
                    part.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.kind == "transformer":
            x = x + self.place
        if self.kind == "perceptron":
            x = self.join(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return (
            logits if self.kind == "points" else self.softcap * torch.tanh(logits / self.softcap)
        )


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation function by name."""
    if name == "relu2":
        return lambda x: F.relu(x).square()
    return {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}[name]


class Data:
    """Batches of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = np.random.default_rng([0x706F696E74, world.number])
        if world.model != "points":
            self.train, self.val = texts(world)
            self.inputs, self.classes = 0, _VOCABULARY
            return
        self.inputs, self.classes = int(rng.integers(8, 65)), int(rng.integers(2, 13))
        count = int(math.exp(rng.uniform(math.log(500), math.log(20_000))))
        x = rng.standard_normal((count + _EVALUATED, self.inputs))
        hidden = np.tanh(x @ rng.standard_normal((self.inputs, 24)) / self.inputs**0.5 * 2.0)
        scores = hidden @ rng.standard_normal((24, self.classes))
        y = scores.argmax(1)
        wrong = rng.random(len(y)) < rng.uniform(0.0, 0.2)
        y = np.where(wrong, rng.integers(0, self.classes, len(y)), y)
        self.x, self.y = torch.from_numpy(x).float(), torch.from_numpy(y)

    def batch(self, h: dict[str, Any], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a training batch."""
        size = h["batch_size"]
        if self.world.model == "points":
            rows = torch.randint(len(self.x) - _EVALUATED, (size,), generator=random)
            return self.x[rows], self.y[rows]
        starts = torch.randint(len(self.train) - h["context"] - 1, (size,), generator=random)
        return self._windows(self.train, starts, h)

    def evaluation(self, h: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return what is validated on: the same number of predictions whatever the context."""
        if self.world.model == "points":
            return self.x[-_EVALUATED:], self.y[-_EVALUATED:]
        one = self.world.model == "perceptron"
        count = _EVALUATED // 4 if one else _EVALUATED // h["context"]
        starts = torch.linspace(0, len(self.val) - h["context"] - 2, max(count, 1)).long()
        return self._windows(self.val, starts, h)

    def _windows(self, text: Tensor, starts: Tensor, h: dict[str, Any]) -> tuple[Tensor, Tensor]:
        windows = text[starts[:, None] + torch.arange(h["context"] + 1)]
        if self.world.model == "perceptron":
            return windows[:, :-1], windows[:, -1]
        return windows[:, :-1], windows[:, 1:]


def train(world: World, data: Data, h: dict[str, Any], seed: int) -> float | None:
    """Return the validation loss of a configuration, in nats; None where it fails."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = Model(world, h, data.inputs, data.classes)
    weights = sum(p.numel() for p in model.parameters())
    tokens = h["batch_size"] * (1 if world.model in ("points", "perceptron") else h["context"])
    if 4 * weights + tokens * h["width"] * 8 * h["n_layer"] > world.memory:
        return None
    embeds = list(model.embed.parameters()) if world.model != "points" else []
    own = {id(p) for p in embeds}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in own], "rate": h["learning_rate"]}
    ]
    if embeds:
        groups.append({"params": embeds, "rate": h["embedding_lr"]})
    optimizer: torch.optim.Optimizer
    if world.optimizer == "adam":
        optimizer = torch.optim.AdamW(
            groups, betas=(h["beta1"], h["beta2"]), eps=h["eps"], weight_decay=h["weight_decay"]
        )
    else:
        # Decay as a share of the rate, so that it means the same as AdamW's.
        optimizer = torch.optim.SGD(
            groups, lr=0.1, momentum=h["momentum"], weight_decay=h["weight_decay"] * 1e-2
        )
    uniform = math.log(data.classes)
    began = time.process_time()
    while (done := (time.process_time() - began) / world.seconds) < 1.0:
        rise = min(done / h["warmup"], 1.0) if h["warmup"] > 0.0 else 1.0
        left = min((1.0 - done) / h["warmdown"], 1.0) if h["warmdown"] > 0.0 else 1.0
        pace = rise * (h["final_lr_frac"] + (1.0 - h["final_lr_frac"]) * left)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * max(pace, 1e-3)
        x, y = data.batch(h, random)
        loss = F.cross_entropy(
            model(x).flatten(0, -2), y.flatten(), label_smoothing=h["label_smoothing"]
        )
        if not math.isfinite(loss.item()):
            return None
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), h["grad_clip"])
        optimizer.step()
    model.eval()
    with torch.no_grad():
        x, y = data.evaluation(h)
        final = float(F.cross_entropy(model(x).flatten(0, -2), y.flatten()))
    return final if final < _DIVERGED * uniform else None


def next_units(world: World, done: list[dict[str, Any]], rng: np.random.Generator) -> list[float]:
    """Return where the next run lies: a uniform draw, or a move from one of the better runs."""
    ran = sorted((r for r in done if r["loss"] is not None), key=lambda r: r["loss"])
    if len(done) % 2 == 0 or len(ran) < 10:
        return [round(u, 4) for u in rng.random(len(world.slots)).tolist()]
    units = list(ran[rng.integers(max(len(ran) // 5, 3))]["units"])
    for j in rng.permutation(len(units))[: rng.integers(1, 5)]:
        if world.slots[j].choices or rng.random() < 0.2:
            units[j] = round(float(rng.random()), 4)
        else:
            step = float(rng.normal()) * math.exp(rng.uniform(math.log(0.05), math.log(0.4)))
            units[j] = round(min(max(units[j] + step, 0.0), 1.0), 4)
    return units


def run(args: argparse.Namespace) -> None:
    """Run what is missing."""
    first, _, last = args.worlds.partition("-")
    args.records.parent.mkdir(parents=True, exist_ok=True)
    for number in range(int(first), int(last or first) + 1):
        done = [r for r in load(args.records) if r["world"] == number]
        if len(done) >= args.runs:
            continue
        world = draw_world(number)
        data = Data(world)
        while len(done) < args.runs:
            rng = np.random.default_rng([number, len(done)])
            units = next_units(world, done, rng)
            values = {s.name: s.value(u) for s, u in zip(world.slots, units, strict=True)}
            loss = train(world, data, {**world.fixed, **values}, seed=len(done))
            record = {"world": number, "units": units, "loss": loss and round(loss, 5)}
            done.append(record)
            with args.records.open("a") as file:
                file.write(json.dumps(record) + "\n")
        losses = [r["loss"] for r in done if r["loss"] is not None]
        print(
            f"{number} {world.model} {world.optimizer} {world.seconds:.2f} s: "
            f"{len(losses)}/{len(done)} ran, {min(losses, default=math.nan):.3f} to "
            f"{max(losses, default=math.nan):.3f}; {', '.join(s.name for s in world.slots)}",
            flush=True,
        )


def load(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pack(args: argparse.Namespace) -> None:
    """Write the arrays that the package reads; worlds of which too few runs came to a loss are
    left out.
    """
    by_world: dict[int, list[dict[str, Any]]] = {}
    records = itertools.chain.from_iterable(map(load, args.records))
    for record in sorted(records, key=lambda r: r["world"]):
        by_world.setdefault(record["world"], []).append(record)
    most = max(map(len, by_world.values()))
    whole = {
        number: records
        for number, records in by_world.items()
        if len(records) == most and sum(r["loss"] is not None for r in records) >= most // 3
    }
    slots = {number: draw_world(number).slots for number in whole}
    wide = (len(whole), max(map(len, slots.values())))
    arrays: dict[str, Any] = {
        "name": np.full(wide, "", "U24"),
        "choices": np.ones(wide, np.int8),
        "logarithmic": np.zeros(wide, bool),
        "integer": np.zeros(wide, bool),
        "low": np.ones(wide, np.float32),
        "high": np.full(wide, 2.0, np.float32),
        "units": np.zeros((len(whole), most, wide[1]), np.float16),
        "loss": np.full((len(whole), most), np.nan, np.float32),
    }
    for row, (number, records) in enumerate(whole.items()):
        for j, slot in enumerate(slots[number]):
            arrays["name"][row, j] = slot.name
            arrays["choices"][row, j] = len(slot.choices)
            arrays["logarithmic"][row, j] = slot.log
            arrays["integer"][row, j] = slot.integer
            arrays["low"][row, j], arrays["high"][row, j] = slot.low, slot.high
            units = [record["units"][j] for record in records]
            arrays["units"][row, :, j] = [slot.unit(slot.value(u)) for u in units]
        arrays["loss"][row] = [
            math.nan if record["loss"] is None else record["loss"] for record in records
        ]
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{len(whole)} of {len(by_world)} worlds, {len(whole) * most} runs: {OUTPUT}")


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("records", type=Path)
    command.add_argument("--worlds", required=True, help="such as 0-51")
    command.add_argument("--runs", type=int, default=100, help="of each world")
    command.set_defaults(do=run)
    command = commands.add_parser("pack")
    command.add_argument("records", type=Path, nargs="+")
    command.set_defaults(do=pack)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.do(args)


if __name__ == "__main__":
    main()
