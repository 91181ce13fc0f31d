"""Counts what the processor does, for others as well."""

import ctypes
import struct

from child import system_call


SOFTWARE, CPU_CLOCK = 1, 0


def attack():
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", SOFTWARE, 112, CPU_CLOCK), 112)
    return system_call((298, 241), attributes, 0, -1, -1, 0) > 0
