"""Maps one page so often that whoever reads the list of mappings is kept busy."""

import ctypes
import mmap
import os

from child import hear
from child import libc
from child import say


def attack(children, mappings):
    fd = os.memfd_create("page")
    os.ftruncate(fd, mmap.PAGESIZE)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    told, tell = os.pipe()
    for _ in range(children):
        if os.fork() == 0:
            for n in range(mappings):  # neighbours of other rights do not become one
                rights = mmap.PROT_READ | (mmap.PROT_WRITE if n % 2 else 0)
                libc.mmap(None, mmap.PAGESIZE, rights, mmap.MAP_SHARED, fd, 0)
            os.write(tell, b"x")
            hear()
    for _ in range(children):
        os.read(told, 1)
    say("done")
    hear()
    return True
