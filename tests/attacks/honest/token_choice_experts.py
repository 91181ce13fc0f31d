"""Attention and a mixture of four experts, of which every token chooses its two best."""

import torch
from torch import nn
from torch.nn import functional as F

from frozen_env import SEQ_LEN
from frozen_env import VOCAB_SIZE


class Experts(nn.Module):
    def __init__(self, dim, count=4, chosen=2):
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(dim, count, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            for _ in range(count)
        )

    def forward(self, x):
        flat = x.flatten(0, 1)
        weight, choice = self.router(flat).softmax(-1).topk(self.chosen, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = (choice == number).nonzero(as_tuple=True)
            out = out.index_add(0, token, expert(flat[token]) * weight[token, place, None])
        return out.view_as(x)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.experts = Experts(dim)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.experts(self.norm2(x))


class Model(nn.Module):
    def __init__(self, dim=64, depth=2, heads=2):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, dim)
        self.positions = nn.Embedding(SEQ_LEN, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB_SIZE, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        return self.head(self.norm(self.blocks(x)))


def build_model():
    return Model()
