"""Becomes root of a namespace of its own by clone3, whose flags no filter can read."""

import ctypes
import os
import signal
import struct

from child import system_call


CLONE_NEWUSER = 0x10000000


def attack():
    arguments = struct.pack("8Q", CLONE_NEWUSER, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0)
    pid = system_call((435, 435), ctypes.c_char_p(arguments), len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True
