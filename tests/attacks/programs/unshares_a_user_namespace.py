"""Becomes root of a namespace of its own, in which much of the kernel opens up."""

import ctypes

from child import checked
from child import libc


CLONE_NEWUSER = 0x10000000


def attack():
    checked(libc.unshare(ctypes.c_int(CLONE_NEWUSER)))
    return True
