"""Has the kernel page another process out."""

import ctypes
import os
import struct

from child import system_call


MADV_COLD = 20


def attack(pid, address):
    there = ctypes.c_char_p(struct.pack("QQ", address & ~4095, 4096))
    return system_call((440, 440), os.pidfd_open(pid), there, 1, MADV_COLD, 0)
