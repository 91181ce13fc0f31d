"""Starts processes until it is stopped; a few hundred at most."""

import os
import signal

from child import hear
from child import say


def attack(count):
    for _ in range(count):
        if os.fork() == 0:
            while True:
                signal.pause()
    say("done")
    hear()
    return True
