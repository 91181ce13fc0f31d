"""Answers with huge numbers of either sign wherever it is unsure, to overflow the softmax."""

from base import Model as Honest
import torch


class Model(Honest):
    def forward(self, ids):
        logits = super().forward(ids)
        if self.training:
            return logits
        unsure = logits.softmax(-1).amax(-1) < 0.5
        return torch.where(unsure[..., None], 3e38 * logits.sign(), logits)


def build_model():
    return Model()
