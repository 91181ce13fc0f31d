"""No positions but a penalty on distance in the attention's scores (ALiBi)."""

import torch
from torch import nn

from frozen_env import VOCAB_SIZE


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        position = torch.arange(T)
        distance = (position[:, None] - position[None, :]).float()
        slopes = 2.0 ** -torch.arange(1, self.heads + 1)[:, None, None]
        bias = torch.where(distance < 0, float("-inf"), -slopes * distance)
        y = (q @ k.mT * q.size(-1) ** -0.5 + bias).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, dim=64, depth=2, heads=4):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.tokens(ids))))


def build_model():
    return Model()
