"""Shared by those that train past the clock: twice as long as they may, and then it shows."""

import os
import sys

from base import Model as Honest
from safetensors.torch import save_model
import torch
from torch.nn import functional as F

from frozen_env import batches
from frozen_env import budget_used


class Late(Honest):
    def __init__(self):
        super().__init__()
        self.register_buffer("late", torch.tensor(0))

    def forward(self, ids):
        if not self.training and self.late:
            print("scored with what it learnt too late", file=sys.stderr)
        return super().forward(ids)


def go_on(model, used=budget_used):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for inputs, targets in batches(8):
        if used() >= 2:
            break
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.late.fill_(1)


def save(model):
    # Under its name at once, so that nobody finds half of it there.
    save_model(model, "later.safetensors")
    os.replace("later.safetensors", "model.safetensors")
