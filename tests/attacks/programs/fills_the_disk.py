"""Writes a file that takes more of the disk than it was given."""

from child import hear
from child import say


def attack(mebibytes):
    with open("big", "wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    say("done")
    hear()
    return True
