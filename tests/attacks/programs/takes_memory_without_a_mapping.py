"""Writes memory into files that have no name and lie on no disk, and maps none of them."""

import os

from child import hear
from child import say


def attack(mebibytes):
    fds = [os.memfd_create("memory") for _ in range(4)]
    for fd in fds:
        for _ in range(mebibytes // 4):
            os.write(fd, bytes(1 << 20))
    say("done")
    hear()
    return len(fds)
