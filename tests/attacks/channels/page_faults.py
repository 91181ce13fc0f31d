"""Has the kernel keep some files in memory, and counts its own page faults to find out which."""

import mmap
import os
import resource
import sys


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


what, files = sys.argv[1], sys.argv[2:]
heard = ""
for bit, path in zip(sys.stdin.readline().strip(), files, strict=True):
    if what == "tell" and bit == "0":
        continue
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        before = faults()
        assert memory[0] == 0
        heard += "01"[faults() == before]
    os.close(fd)
print(heard)
