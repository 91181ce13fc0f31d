"""Writes files to /dev, which in a box of namespaces lies in memory."""

from child import hear
from child import say


def attack(mebibytes):
    with open("/dev/memory", "wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    say("done")
    hear()
    return True
