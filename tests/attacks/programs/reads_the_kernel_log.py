"""Reads what the kernel has logged."""

import ctypes

from child import system_call


READ_ALL = 3


def attack():
    buffer = ctypes.create_string_buffer(64)
    return system_call((103, 116), READ_ALL, buffer, 64) >= 0
