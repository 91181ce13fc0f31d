"""Takes more of the disk than it was given in a folder that nobody may list."""

import os

from child import hear
from child import say


def attack(mebibytes):
    os.umask(0)
    os.mkdir("dark", 0o300)
    with open("dark/big", "wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    say("done")
    hear()
    return True
