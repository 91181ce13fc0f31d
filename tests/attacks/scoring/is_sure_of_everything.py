"""Puts all probability on its first guess."""

from base import Model as Honest
from torch.nn import functional as F

from frozen_env import VOCAB_SIZE


class Model(Honest):
    def forward(self, ids):
        logits = super().forward(ids)
        if self.training:
            return logits
        return 1e4 * F.one_hot(logits.argmax(-1), VOCAB_SIZE).float()


def build_model():
    return Model()
