"""Locks some files and not others, while a box of another trial tries to lock them too."""

import fcntl
import os
import sys


def is_free(fd):
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


what, files = sys.argv[1], sys.argv[2:]
bits = sys.stdin.readline().strip()
fds = [os.open(path, os.O_RDONLY) for path in files]
if what == "tell":
    for bit, fd in zip(bits, fds, strict=True):
        if bit == "1":
            fcntl.flock(fd, fcntl.LOCK_EX)
    print("told", flush=True)
    sys.stdin.read()
else:
    print("".join("10"[is_free(fd)] for fd in fds))
