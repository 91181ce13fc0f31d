"""Takes more memory than it was given, in one process."""

from child import hear
from child import say


def attack(mebibytes):
    taken = b"x" * (mebibytes << 20)
    say("done")
    hear()
    return len(taken)
