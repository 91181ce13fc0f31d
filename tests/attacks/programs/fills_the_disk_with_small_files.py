"""Takes more of the disk than it was given with files of which each is small."""

from child import hear
from child import say


def attack(mebibytes):
    for number in range(2 * mebibytes):
        with open(f"{number}", "wb", buffering=0) as file:
            file.write(bytes(1 << 19))
    say("done")
    hear()
    return True
