"""Takes names that a reader of /proc could stumble over, or take for figures."""

import ctypes
import mmap
import os
import threading

from child import hear
from child import say


NAMES = [b"\xff\xfe", b"\rRssAnon:", b"\rRssAnon: -99", b"Threads:\t1", b"a) R 1 1 1"]


def attack(threads):
    name = "a\rb (deleted)"
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, mmap.PAGESIZE)
    held = mmap.mmap(fd, mmap.PAGESIZE)
    os.unlink(name)
    for taken in NAMES:
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, taken, 0, 0, 0)
            for _ in range(threads):
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            threading.Event().wait()
    say("done")
    hear()
    return bool(held)
