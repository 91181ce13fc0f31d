"""Leaves weights whose header, they say, is of four exabytes."""

import os
import struct


with open("model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", 1 << 62) + b'{"w":{}}')
os._exit(0)
