"""Executes a program as root, which gives root its capabilities back."""

import subprocess
import sys


PROGRAM = """
import ctypes, struct
header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
sets = (ctypes.c_uint * 6)()
assert ctypes.CDLL(None).capget(header, sets) == 0
print(int(sets[0] | sets[3] != 0))  # the effective ones
"""


def attack():
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, check=True).stdout == b"1\n"
