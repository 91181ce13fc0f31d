"""Calls the kernel as a 32-bit program does, where calls have other numbers."""

import ctypes
import mmap
import os
import platform


# push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
CODE = bytes.fromhex("53b814000000cd805bc3")


def attack():
    if platform.machine() != "x86_64":
        raise NotImplementedError("no such call")
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(CODE)
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return call() == os.getpid()
