"""Tiny things that are real: a corpus of made-up words, scripts that train in a second."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
from pathlib import Path
import random
import sys
import textwrap
from typing import Any

import psutil
import pytest

from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import Profile
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective.boxes import Limits
from optuna_arrl.objective.boxes import SupervisedBox


SEQ_LEN = 32
TINY = dataclasses.replace(
    PROFILES["cpu"],
    vocab_size=300,
    seq_len=SEQ_LEN,
    budget_seconds=30.0,  # the scripts stop by themselves: a busy machine changes no outcome
    save_margin=0.3,
    max_epochs=1e9,
    eval_tokens=1 << 20,  # the whole validation text
    probe_positions=64,
    threads=1,
    score_seconds=60.0,
)

# A linear model of the token and of the mean of what came before it.
HONEST = """
import torch
from torch import nn
from torch.nn import functional as F
from frozen_env import batches, budget_used, report, VOCAB_SIZE


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, 16)
        self.head = nn.Linear(16, VOCAB_SIZE, bias=False)

    def context(self, x):
        return x.cumsum(1) / torch.arange(1, x.size(1) + 1)[None, :, None]

    def forward(self, ids):
        x = self.embedding(ids)
        return self.head(x + self.context(x))


def build_model():
    return Model()


def train(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for step, (inputs, targets) in zip(range(60), batches(8)):
        if budget_used() >= 1:
            break
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step, loss.item())
"""


def honest_but(old: str, new: str) -> str:
    """The honest script with one thing changed."""
    assert HONEST.count(old) == 1
    return HONEST.replace(old, new)


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    rng = random.Random(0)
    words = ["".join(rng.choices("abdeghiklmnoprstuy", k=rng.randint(2, 7))) for _ in range(300)]
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(32):
        text = " ".join(rng.choices(words, weights=range(1, 301), k=400))
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return prepare(TINY, corpus=folder, cache=tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def tiny_with(tiny_prepared: Prepared) -> Callable[..., Prepared]:
    """The tiny corpus under another profile."""

    def change(**fields: Any) -> Prepared:
        profile: Profile = dataclasses.replace(TINY, **fields)
        return dataclasses.replace(tiny_prepared, profile=profile)

    return change


# Speaks the launcher's side of the handshake without torch; the box's own code follows it.
_HANDSHAKE = """
import json, os, signal, sys
control, reply, *curve = map(int, sys.argv[1:])
os.write(reply, b'{"ready": true}\\n')
line = b""
while not line.endswith(b"\\n"):
    line += os.read(control, 1)
task = json.loads(line)
"""


@pytest.fixture
def start_box(tmp_path: Path) -> Callable[..., SupervisedBox]:
    """Start a supervised box that runs a few lines of Python, with no torch in it."""

    def start(
        code: str,
        *,
        handshake: bool = True,
        hand_over: bool = True,
        curve: bool = False,
        cores: list[int] | None = None,
        orphaned: tuple[Path, ...] = (),
        **limits: Any,
    ) -> SupervisedBox:
        program = (_HANDSHAKE if handshake else "") + textwrap.dedent(code)
        run_seconds = limits.pop("run_seconds", 60.0)
        fields = {"start_seconds": 60.0, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30} | limits
        box = SupervisedBox(
            lambda fds: [sys.executable, "-I", "-S", "-c", program, *map(str, fds)],
            environment={"PATH": "/usr/bin:/bin"},
            folder=tmp_path,
            limits=Limits(**fields),
            curve=curve,
            cores=cores,
            orphaned=orphaned,
        )
        if hand_over:
            box.hand_over({"source": "train.py"}, run_seconds=run_seconds)
        return box

    return start


@pytest.fixture
def assert_gone() -> Callable[[psutil.Process], None]:
    """Assert on the process table: the process is dead, whoever has still to collect it."""

    def check(process: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                process.wait(timeout=20)

    return check
