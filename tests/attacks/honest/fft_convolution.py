"""Long causal filters applied by FFT: padded to twice the length, so that nothing wraps around."""

import torch
from torch import nn

from frozen_env import SEQ_LEN
from frozen_env import VOCAB_SIZE


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        decay = torch.exp(-torch.arange(SEQ_LEN)[:, None] / torch.logspace(0, 2, dim))
        self.filter = nn.Parameter(0.3 * decay * torch.randn(SEQ_LEN, dim))
        self.gate, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        T = x.size(1)
        h = self.norm1(x)
        spectrum = torch.fft.rfft(h, n=2 * T, dim=1)
        spectrum = spectrum * torch.fft.rfft(self.filter[:T], n=2 * T, dim=0)
        y = torch.fft.irfft(spectrum, n=2 * T, dim=1)[:, :T]
        x = x + self.out(y * torch.sigmoid(self.gate(h)))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, dim=64, depth=2):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.tokens(ids))))


def build_model():
    return Model()
