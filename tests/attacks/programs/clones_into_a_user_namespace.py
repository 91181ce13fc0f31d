"""Becomes root of a namespace of its own by a flag of clone."""

import os
import signal

from child import system_call


CLONE_NEWUSER = 0x10000000


def attack():
    pid = system_call((56, 220), CLONE_NEWUSER | int(signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True
