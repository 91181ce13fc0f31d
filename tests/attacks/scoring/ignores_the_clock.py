"""Trains twice as long as it may."""

from late import go_on
from late import Late as Model


def build_model():
    return Model()


def train(model):
    go_on(model)
