"""Maps one page so often that whoever reads the list of mappings is kept busy."""

import mmap
import os

from child import hear
from child import say


def attack(children, mappings):
    fd = os.memfd_create("page")
    os.ftruncate(fd, mmap.PAGESIZE)
    for _ in range(children):
        if os.fork() == 0:
            held = []
            for n in range(mappings):  # neighbours of other rights do not become one
                rights = mmap.PROT_READ | (mmap.PROT_WRITE if n % 2 else 0)
                held.append(mmap.mmap(fd, mmap.PAGESIZE, prot=rights))
            hear()
    say("done")
    hear()
    return True
