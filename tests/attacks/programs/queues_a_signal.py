"""Sends a signal with a value, by rt_sigqueueinfo and by rt_tgsigqueueinfo."""

import ctypes
import signal
import struct

from child import any_of
from child import system_call


SI_QUEUE = -1


def attack(pid):
    number = int(signal.SIGUSR1)
    info = ctypes.create_string_buffer(struct.pack("iii", number, 0, SI_QUEUE), 128)
    return any_of(
        lambda: system_call((129, 138), pid, number, info),
        lambda: system_call((297, 240), pid, pid, number, info),
    )
