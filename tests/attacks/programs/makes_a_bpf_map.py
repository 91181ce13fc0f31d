"""Makes a table for programs inside the kernel."""

import ctypes
import struct

from child import system_call


BPF_MAP_CREATE, ARRAY = 0, 2


def attack():
    attributes = ctypes.create_string_buffer(struct.pack("IIII", ARRAY, 4, 8, 1), 72)
    return system_call((321, 280), BPF_MAP_CREATE, attributes, 72) > 0
