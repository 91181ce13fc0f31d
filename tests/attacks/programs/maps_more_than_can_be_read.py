"""Maps one page so often that whoever reads the list of mappings is kept busy."""

import ctypes
import mmap
import os

from child import hear
from child import in_children
from child import libc
from child import say


def attack(children, mappings):
    fd = os.memfd_create("page")
    os.ftruncate(fd, mmap.PAGESIZE)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

    def map_all():
        for n in range(mappings):  # neighbours of other rights do not become one
            rights = mmap.PROT_READ | (mmap.PROT_WRITE if n % 2 else 0)
            libc.mmap(None, mmap.PAGESIZE, rights, mmap.MAP_SHARED, fd, 0)

    in_children(children, map_all)
    say("done")
    hear()
    return True
