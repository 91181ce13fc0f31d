"""Puts a word into a message queue of somebody else, which it finds by number."""

import ctypes
import struct

from child import system_call


IPC_NOWAIT = 0o4000


def attack(number, word):
    message = ctypes.c_char_p(struct.pack("l", 1) + word.encode())
    system_call((69, 189), number, message, len(word), IPC_NOWAIT)
