"""Reads the memory of another process by process_vm_readv."""

import ctypes
import struct

from child import system_call


def attack(pid, address, size):
    buffer = ctypes.create_string_buffer(size)
    here = ctypes.c_char_p(struct.pack("QQ", ctypes.addressof(buffer), size))
    there = ctypes.c_char_p(struct.pack("QQ", address, size))
    system_call((310, 270), pid, here, 1, there, 1, 0)
    return buffer.raw.decode()
