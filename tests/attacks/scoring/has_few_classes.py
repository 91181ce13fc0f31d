"""Answers with two classes, between which anybody can guess."""

from base import Model as Honest


class Model(Honest):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits if self.training else logits[..., :2]


def build_model():
    return Model()
