"""Stops the processes that hold its time limit."""

import os
import signal

from child import any_of
from child import hear
from child import say


def attack():
    say("which are they?")
    return any_of(*(lambda pid=pid: os.kill(pid, signal.SIGSTOP) for pid in hear()))
