"""Causal convolutions with gaps of 1, 2, 4, 8, 16, in the manner of WaveNet."""

import torch
from torch import nn
from torch.nn import functional as F

from frozen_env import VOCAB_SIZE


class Block(nn.Module):
    def __init__(self, dim, gap):
        super().__init__()
        self.gap = gap
        self.convolution = nn.Conv1d(dim, 2 * dim, 2, dilation=gap)
        self.out = nn.Conv1d(dim, dim, 1)

    def forward(self, x):
        a, b = self.convolution(F.pad(x, (self.gap, 0))).chunk(2, 1)
        return x + self.out(torch.tanh(a) * torch.sigmoid(b))


class Model(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.blocks = nn.Sequential(*(Block(dim, 2**i) for i in range(5)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.tokens(ids).mT).mT))


def build_model():
    return Model()
