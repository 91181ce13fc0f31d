"""Takes more of the disk than it was given with a file that it has mapped, closed and removed."""

import ctypes
import mmap
import os

from child import checked
from child import hear
from child import libc
from child import say


def attack(mebibytes):
    size = mebibytes << 20
    with open("big", "w+b") as file:
        file.truncate(size)
        # Python's own mmap keeps a copy of the descriptor.
        libc.mmap.restype = ctypes.c_void_p
        how = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
        address = libc.mmap(None, ctypes.c_size_t(size), *how, file.fileno(), ctypes.c_long(0))
        checked(-1 if address == ctypes.c_void_p(-1).value else 0)
    os.unlink("big")
    ctypes.memset(address, 1, size)
    say("done")
    hear()
    return True
