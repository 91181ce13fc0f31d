"""Mounts a file system over its own folder."""

import ctypes
import os

from child import checked
from child import libc
from child import system_call


CLONE_NEWNS, MS_REC_PRIVATE, MNT_DETACH = 0x00020000, (1 << 14) | (1 << 18), 2


def attack():
    if libc.unshare(ctypes.c_int(CLONE_NEWNS)) == 0:  # seen by nobody else
        checked(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None))
    os.mkdir("mounted")
    there = ctypes.c_char_p(b"mounted")
    system_call((165, 40), ctypes.c_char_p(b"none"), there, ctypes.c_char_p(b"tmpfs"), 0, 0)
    system_call((166, 39), there, MNT_DETACH)
    os.rmdir("mounted")
    return True
