"""Stops the process that holds its time limit."""

import os
import signal

from child import hear
from child import say


def attack():
    say("which is it?")
    for pid in (*hear(), os.getppid()):
        try:
            os.kill(pid, signal.SIGSTOP)
        except OSError:
            pass
