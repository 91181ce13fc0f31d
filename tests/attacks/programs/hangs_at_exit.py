"""Ends as it should, and has something to do at exit that never ends."""

import atexit

from child import hear
from child import say


def attack():
    atexit.register(hang)
    return True


def hang():
    say("done")
    while True:
        hear()
