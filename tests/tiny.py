"""Tiny things that are real: a corpus of made-up words, a script that trains in a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path
import random

from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import PROFILES


SEQ_LEN = 32
TINY = dataclasses.replace(
    PROFILES["cpu"],
    vocab_size=300,
    seq_len=SEQ_LEN,
    budget_seconds=30.0,  # the scripts stop by themselves: a busy machine changes no outcome
    paced=False,
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


def prepare_tiny(corpus: Path, cache: Path) -> Prepared:
    """Write a corpus of made-up words and prepare it for the profile :data:`TINY`."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abdeghiklmnoprstuy", k=rng.randint(2, 7))) for _ in range(300)]
    for number in range(32):
        text = " ".join(rng.choices(words, weights=range(1, 301), k=400))
        (corpus / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return prepare(TINY, corpus=corpus, cache=cache)
