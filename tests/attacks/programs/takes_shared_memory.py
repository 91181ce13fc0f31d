"""Writes to shared memory and lets the pages go: they stay, but it is not seen to hold them."""

import mmap

from child import hear
from child import say


def attack(mebibytes):
    memory = mmap.mmap(-1, mebibytes << 20)
    for start in range(0, mebibytes << 20, 1 << 20):
        memory[start : start + (1 << 20)] = b"x" * (1 << 20)
        memory.madvise(mmap.MADV_DONTNEED, start, 1 << 20)
    say("done")
    hear()
    return memory[-1]
