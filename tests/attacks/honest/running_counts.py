"""Counts of pairs in the training text and running counts of a window's past; no gradients."""

import torch
from torch import nn
from torch.nn import functional as F

from frozen_env import batches
from frozen_env import budget_used
from frozen_env import report
from frozen_env import VOCAB_SIZE


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("pairs", torch.zeros(VOCAB_SIZE, VOCAB_SIZE))

    def forward(self, ids):
        single = self.pairs.sum(0) + 1.0
        pair = self.pairs[ids].add_(100.0 * single / single.sum())
        past = torch.zeros_like(pair).scatter_(2, ids[..., None], 1.0).cumsum_(1)
        share = torch.arange(1, ids.size(1) + 1)[:, None]
        return pair.mul_(0.9 / pair.sum(-1, keepdim=True)).add_(past.mul_(0.1 / share)).log_()


def build_model():
    return Model()


def train(model):
    for step, (inputs, targets) in enumerate(batches(32)):
        if budget_used() >= 1:
            break
        index = (inputs.flatten(), targets.flatten())
        if step % 50 == 0:
            report(step, F.nll_loss(model(inputs[:1])[0], targets[0]).item())
        model.pairs.index_put_(index, torch.ones(inputs.numel()), accumulate=True)
