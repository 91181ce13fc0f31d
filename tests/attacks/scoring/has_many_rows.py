"""Answers with a row more than it was asked for."""

from base import Model as Honest
import torch


class Model(Honest):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits if self.training else torch.cat((logits, logits[:1]))


def build_model():
    return Model()
