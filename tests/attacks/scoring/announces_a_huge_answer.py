"""Announces an answer of four exabytes."""

import os
import struct
import sys

from base import Model as Honest


class Model(Honest):
    def forward(self, ids):
        if not self.training:
            os.write(int(sys.argv[3]), struct.pack("<BQ", 0, 1 << 62))
        return super().forward(ids)


def build_model():
    return Model()
