"""Makes a file system by fsopen, fsconfig and fsmount, which mount seen by nobody else."""

import ctypes

from child import system_call


CMD_CREATE = 6


def attack():
    context = system_call((430, 430), ctypes.c_char_p(b"tmpfs"), 0)
    system_call((431, 431), context, CMD_CREATE, 0, 0, 0)
    return system_call((432, 432), context, 0, 0) > 0
