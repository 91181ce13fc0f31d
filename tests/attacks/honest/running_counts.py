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
        pair = self.pairs[ids] + 100.0 * single / single.sum()
        pair = pair / pair.sum(-1, keepdim=True)
        past = F.one_hot(ids, VOCAB_SIZE).float().cumsum(1)
        past = past / past.sum(-1, keepdim=True)
        return (0.9 * pair + 0.1 * past).log()


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
