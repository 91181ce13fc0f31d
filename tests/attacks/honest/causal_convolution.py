"""Convolutions of width 4 over the past, with gates."""

from torch import nn
from torch.nn import functional as F

from frozen_env import VOCAB_SIZE


WIDTH = 4


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.convolution = nn.Conv1d(dim, 2 * dim, WIDTH)
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        past = F.pad(self.norm(x).mT, (WIDTH - 1, 0))
        return x + self.out(F.glu(self.convolution(past), dim=1).mT)


class Model(nn.Module):
    def __init__(self, dim=96, depth=3):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.tokens(ids))))


def build_model():
    return Model()
