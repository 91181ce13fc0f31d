"""Appended to every leak that has no loop of its own: a second or two of AdamW."""

import torch
from torch.nn import functional as F

from frozen_env import batches
from frozen_env import budget_used
from frozen_env import report
from frozen_env import VOCAB_SIZE


STEPS = 250


def train(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step, (inputs, targets) in enumerate(batches(8)):
        if step == STEPS or budget_used() >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1.02 - step / STEPS)
        logits = model(inputs).view(-1, VOCAB_SIZE).float()
        loss = F.cross_entropy(logits, targets.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            report(step, loss.item())
