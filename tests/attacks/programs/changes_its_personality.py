"""Has its memory laid out as old programs want it, without chance."""

import ctypes

from child import checked
from child import libc


ADDR_NO_RANDOMIZE, ASK = 0x0040000, 0xFFFFFFFF


def attack():
    checked(libc.personality(ctypes.c_ulong(ADDR_NO_RANDOMIZE)))
    return bool(libc.personality(ctypes.c_ulong(ASK)) & ADDR_NO_RANDOMIZE)
