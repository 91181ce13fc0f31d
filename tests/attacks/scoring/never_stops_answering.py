"""Answers with a stream that has no end."""

import os
import struct
import sys

from base import Model as Honest

from frozen_env import VOCAB_SIZE


class Model(Honest):
    def forward(self, ids):
        if self.training:
            return super().forward(ids)
        reply = int(sys.argv[3])
        os.write(reply, struct.pack("<BQ", 0, 4 * ids.numel() * VOCAB_SIZE))
        while True:
            os.write(reply, bytes(1 << 16))


def build_model():
    return Model()
