"""Linear attention whose memory decays by a gate, in its parallel form over cumulative sums."""

import torch
from torch import nn
from torch.nn import functional as F

from frozen_env import VOCAB_SIZE


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.decay = nn.Linear(dim, heads)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        B, T, C = x.shape
        h = self.norm1(x)
        q, k, v = self.qkv(h).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        kept = F.logsigmoid(self.decay(h) + 3.0).cumsum(1).mT  # log of what is kept since 0
        since = kept[..., :, None] - kept[..., None, :]
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights = since.masked_fill(future, float("-inf")).exp()
        y = (F.silu(q) @ F.silu(k).mT * weights) @ v
        y = F.rms_norm(y, (y.size(-1),)).transpose(1, 2).reshape(B, T, C)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, dim=64, depth=2, heads=4):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.tokens(ids))))


def build_model():
    return Model()
