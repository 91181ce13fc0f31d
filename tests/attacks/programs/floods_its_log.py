"""Prints without end."""

import os

from child import hear
from child import say


def attack(mebibytes):
    for _ in range(mebibytes):
        os.write(1, b"x" * (1 << 20))
    say("done")
    hear()
    return True
