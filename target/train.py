"""A small GPT, trained until the budget ends. This file is what edits may touch.

It offers `build_model()` and `train(model)`. The model maps token ids (B, t), any t from 1 to
SEQ_LEN, to logits (B, t, VOCAB_SIZE), with no statistics over positions or batch.
A literal in capitals, or with an `# arrl:` comment on its line, is a slot that a study searches.
Its values are tuned by hand for the cpu profile (docs/LOG.md).
"""

import torch
from torch import nn
import torch.nn.functional as F

from frozen_env import batches
from frozen_env import budget_used
from frozen_env import DEVICE
from frozen_env import report
from frozen_env import SEQ_LEN
from frozen_env import VOCAB_SIZE


# Model
DEPTH = 2  # arrl: int 1 8
MODEL_DIM = 64  # arrl: int 16 256 log
HEAD_DIM = 32  # arrl: pow2 8 128
MLP_RATIO = 4.0  # arrl: linear 1 6
ROPE_BASE = 1000.0  # arrl: log 50 200000
SOFTCAP = 0.0  # arrl: choices 0 8 15 30
INIT_SCALE = 1.0  # arrl: log 0.1 4
# Batch
BATCH_SIZE = 12  # arrl: int 2 128 log
WINDOW = 128  # arrl: pow2 16 128
# Optimiser
MATRIX_LR = 0.03  # arrl: log 3e-3 0.3
EMBEDDING_LR = 0.25  # arrl: log 0.01 3
HEAD_LR = 0.05  # arrl: log 3e-3 0.5
SCALAR_LR = 0.02  # arrl: log 1e-3 0.3
ADAM_BETAS = (0.8, 0.98)  # arrl: linear 0.5 0.999
WEIGHT_DECAY = 0.01  # arrl: linear 0 0.3
MOMENTUM = 0.95  # arrl: linear 0.8 0.99
MOMENTUM_START = 0.85  # arrl: linear 0.6 0.99
NEWTON_STEPS = 4  # arrl: int 2 7
GRAD_CLIP = 1.0  # arrl: log 0.1 10
BFLOAT16 = True
# Schedule, as fractions of the budget
WARMUP_RATIO = 0.02  # arrl: linear 0 0.2
WARMDOWN_RATIO = 0.6  # arrl: linear 0.1 1.0
FINAL_LR_RATIO = 0.0  # arrl: linear 0 0.3
MOMENTUM_RAMP_RATIO = 0.2  # arrl: linear 0.02 1


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def attend(q, k, v):
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # On a CPU the fused kernel's backward is slower than the plain formula at these lengths.
    future = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).triu(1)
    weights = (q @ k.mT * q.size(-1) ** -0.5).masked_fill(future, float("-inf")).softmax(-1)
    return weights.to(v.dtype) @ v


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_head = max(1, MODEL_DIM // HEAD_DIM)
        inner = self.n_head * HEAD_DIM
        self.qkv = nn.Linear(MODEL_DIM, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, MODEL_DIM, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3 * self.n_head, HEAD_DIM).transpose(1, 2).chunk(3, 1)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        y = attend(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = int(MLP_RATIO * MODEL_DIM)
        self.fc = nn.Linear(MODEL_DIM, hidden, bias=False)
        self.proj = nn.Linear(hidden, MODEL_DIM, bias=False)

    def forward(self, x):
        return self.proj(F.relu(self.fc(x)).square())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.mlp = MLP()

    def forward(self, x, cos, sin):
        x = x + self.attn(norm(x), cos, sin)
        x = x + self.mlp(norm(x))
        return x


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(VOCAB_SIZE, MODEL_DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.lm_head = nn.Linear(MODEL_DIM, VOCAB_SIZE, bias=False)
        self.resid_scale = nn.Parameter(torch.ones(DEPTH))
        self.skip_scale = nn.Parameter(torch.zeros(DEPTH))
        angles = torch.outer(
            torch.arange(SEQ_LEN).float(),
            ROPE_BASE ** -torch.arange(0, 1, 2 / HEAD_DIM),
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def init_weights(self):
        nn.init.normal_(self.wte.weight, std=1.0)  # arrl: log 0.01 4
        nn.init.normal_(self.lm_head.weight, std=0.001)  # arrl: log 1e-4 0.1
        bound = INIT_SCALE * (3 / MODEL_DIM) ** 0.5
        for block in self.blocks:
            nn.init.uniform_(block.attn.qkv.weight, -bound, bound)
            nn.init.uniform_(block.mlp.fc.weight, -bound, bound)
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.proj.weight)

    def forward(self, ids):
        T = ids.size(1)
        cos, sin = self.cos[:T].to(self.wte.weight.dtype), self.sin[:T].to(self.wte.weight.dtype)
        x = x0 = norm(self.wte(ids))
        for i, block in enumerate(self.blocks):
            x = self.resid_scale[i] * x + self.skip_scale[i] * x0
            x = block(x, cos, sin)
        logits = self.lm_head(norm(x))
        return SOFTCAP * torch.tanh(logits / SOFTCAP) if SOFTCAP else logits


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix by Newton-Schulz (Jordan et al., 2024)."""

    def __init__(self, params, lr, momentum, weight_decay):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                by_shape.setdefault(p.shape, []).append(p)
            for params in by_shape.values():
                grads = torch.stack([p.grad for p in params])
                state = self.state[params[0]]
                if not state:
                    state["momentum"] = torch.zeros_like(grads)
                state["momentum"].lerp_(grads, 1 - group["momentum"])
                update = orthogonalize(grads.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, update.size(-2) / update.size(-1)) ** 0.5
                for p, u in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(u.to(p.dtype), alpha=group["lr"] * scale)


def orthogonalize(g):
    x = g.bfloat16() if g.is_cuda else g
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_STEPS):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


def learning_rate_factor(used):
    if used < WARMUP_RATIO:
        return used / WARMUP_RATIO
    if used < 1 - WARMDOWN_RATIO:
        return 1.0
    left = min(1.0, (1 - used) / WARMDOWN_RATIO)
    return left + (1 - left) * FINAL_LR_RATIO


def build_model():
    model = GPT()
    model.init_weights()
    return model.to(DEVICE)


def train(model):
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    named = {id(p) for p in (*matrices, model.wte.weight, model.lm_head.weight)}
    others = [p for p in model.parameters() if id(p) not in named]
    adam = torch.optim.AdamW(
        [
            dict(params=[model.wte.weight], lr=EMBEDDING_LR),
            dict(params=[model.lm_head.weight], lr=HEAD_LR),
            dict(params=others, lr=SCALAR_LR),
        ],
        betas=ADAM_BETAS,
        eps=1e-10,
        weight_decay=0.0,
        fused=True,
    )
    muon = Muon(matrices, lr=MATRIX_LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    optimizers = [adam, muon]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    cuda = DEVICE.type == "cuda"
    forward = torch.compile(model, dynamic=False) if cuda else model
    step = 0
    for inputs, targets in batches(BATCH_SIZE, WINDOW):
        used = budget_used()
        if used >= 1:
            break
        factor = learning_rate_factor(used)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        ramp = min(1.0, used / MOMENTUM_RAMP_RATIO)
        muon.param_groups[0]["momentum"] = MOMENTUM_START + ramp * (MOMENTUM - MOMENTUM_START)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BFLOAT16):
            logits = forward(inputs)
        loss = F.cross_entropy(logits.view(-1, VOCAB_SIZE), targets.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        if step % 10 == 0:
            report(step, loss.item())
        step += 1
