"""Takes back that it shall die with its supervisor, and leaves a daemon besides."""

import ctypes
import os
import signal

from child import checked
from child import libc
from child import say


PR_SET_PDEATHSIG = 1


def attack():
    checked(libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(0), 0, 0, 0))
    told, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(tell, b"x")
            while True:
                signal.pause()
        os._exit(0)
    os.read(told, 1)
    say("done")
    while True:
        signal.pause()
