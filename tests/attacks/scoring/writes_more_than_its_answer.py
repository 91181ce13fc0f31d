"""Writes a few bytes of its own before each answer."""

import os
import sys

from base import Model as Honest


class Model(Honest):
    def forward(self, ids):
        if not self.training:
            os.write(int(sys.argv[3]), b"more")
        return super().forward(ids)


def build_model():
    return Model()
