"""Removes a POSIX message queue of somebody else."""

import ctypes

from child import system_call


def attack(name):
    system_call((241, 181), ctypes.c_char_p(name.encode()))
