"""A token, the two before it, and the mean of the whole past."""

import torch
from torch import nn
from torch.nn import functional as F

from frozen_env import VOCAB_SIZE


class Model(nn.Module):
    def __init__(self, dim=96):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.mix = nn.Sequential(nn.Linear(4 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        x = self.tokens(ids)
        mean = x.cumsum(1) / torch.arange(1, ids.size(1) + 1)[:, None]
        before = [F.pad(x, (0, 0, n, 0))[:, : ids.size(1)] for n in (1, 2)]
        return self.head(self.norm(x + self.mix(torch.cat((x, mean, *before), -1))))


def build_model():
    return Model()
