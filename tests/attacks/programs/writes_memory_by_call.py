"""Overwrites memory of another process by process_vm_writev."""

import ctypes
import struct

from child import system_call


def attack(pid, address, data):
    buffer = ctypes.create_string_buffer(data.encode())
    here = ctypes.c_char_p(struct.pack("QQ", ctypes.addressof(buffer), len(data)))
    there = ctypes.c_char_p(struct.pack("QQ", address, len(data)))
    return system_call((311, 271), pid, here, 1, there, 1, 0)
