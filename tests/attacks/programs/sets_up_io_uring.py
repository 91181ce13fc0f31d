"""Gets a ring that opens files and sockets without the calls that are watched."""

import ctypes

from child import system_call


def attack():
    return system_call((425, 425), 4, ctypes.create_string_buffer(120)) > 0
