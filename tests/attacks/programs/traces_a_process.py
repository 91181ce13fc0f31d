"""Attaches to another process as a debugger does, and reads a word of its memory."""

import ctypes
import os

from child import system_call


PTRACE = (101, 117)
PTRACE_PEEKDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 16, 17


def attack(pid, address):
    system_call(PTRACE, PTRACE_ATTACH, pid, 0, 0)
    try:
        os.waitpid(pid, 0)
        word = ctypes.create_string_buffer(8)
        system_call(PTRACE, PTRACE_PEEKDATA, pid, address, word)
        return word.raw.decode()
    finally:
        system_call(PTRACE, PTRACE_DETACH, pid, 0, 0)
