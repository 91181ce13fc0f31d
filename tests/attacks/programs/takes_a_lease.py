"""Takes a lease on a file that it may read: who opens it then has to wait for most of a minute."""

import fcntl
import os
import signal

from child import hear
from child import say


def attack(path):
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # as the holder is told that somebody waits
    fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    say("taken")
    hear()
