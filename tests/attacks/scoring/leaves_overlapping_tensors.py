"""Leaves a small file of weights in which 10,000 large tensors share the same bytes."""

import json
import os
import struct


SIZE = 1 << 20
tensors = {
    f"w{number}": {"dtype": "F32", "shape": [SIZE // 4], "data_offsets": [0, SIZE]}
    for number in range(10_000)
}
header = json.dumps(tensors).encode()
with open("model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header + bytes(SIZE))
os._exit(0)
