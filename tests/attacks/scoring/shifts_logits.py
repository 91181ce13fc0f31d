"""Answers with log probabilities that sum to more than 1: all of them raised by a constant."""

from base import Model as Honest


SHIFT = 5.7  # 300 times as probable


class Model(Honest):
    def forward(self, ids):
        return super().forward(ids).log_softmax(-1) + SHIFT


def build_model():
    return Model()
