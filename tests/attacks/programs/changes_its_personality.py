"""Has its memory laid out as old programs want it, without chance."""

from child import libc


ADDR_NO_RANDOMIZE = 0x0040000


def attack():
    libc.personality(ADDR_NO_RANDOMIZE)
    return bool(libc.personality(0xFFFFFFFF) & ADDR_NO_RANDOMIZE)
