"""Appended to every honest model that has no loop of its own: AdamW until the budget ends."""

import torch
from torch.nn import functional as F

from frozen_env import batches
from frozen_env import budget_used
from frozen_env import report
from frozen_env import VOCAB_SIZE


def train(model):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), fused=True)
    for step, (inputs, targets) in enumerate(batches(8)):
        used = budget_used()
        if used >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1.02 - used)
        logits = model(inputs).view(-1, VOCAB_SIZE).float()
        loss = F.cross_entropy(logits, targets.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            report(step, loss.item())
