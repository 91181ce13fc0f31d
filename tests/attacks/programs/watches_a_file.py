"""Watches a file that it may read, and is told when somebody outside opens it."""

import ctypes
import os

from child import checked
from child import hear
from child import libc
from child import say


IN_OPEN = 0x20


def attack(path):
    watch = checked(libc.inotify_init1(os.O_NONBLOCK))
    checked(libc.inotify_add_watch(watch, ctypes.c_char_p(path.encode()), IN_OPEN))
    say("watching")
    hear()  # that it has been opened
    return len(os.read(watch, 4096)) > 0
