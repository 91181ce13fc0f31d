"""Attaches shared memory of somebody else, which it finds by number, and reads it."""

import ctypes

from child import checked
from child import libc


def attack(number, size):
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(number, None, 0)
    checked(-1 if address == ctypes.c_void_p(-1).value else 0)
    return ctypes.string_at(address, size).decode()
