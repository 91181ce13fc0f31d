"""Leaves a POSIX message queue for the next box, which knows its name."""

import ctypes
import os

from child import system_call


def attack(name):
    path = ctypes.c_char_p(name.encode())
    system_call((240, 180), path, os.O_CREAT | os.O_RDWR, 0o600, 0)
