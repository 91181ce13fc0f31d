"""Has so many files open that whoever reads the list of them is kept busy."""

import os

from child import hear
from child import in_children
from child import say


def attack(children, descriptors):
    fd = os.open("/dev/null", os.O_RDONLY)
    for _ in range(descriptors):
        os.dup(fd)
    in_children(children, lambda: None)
    say("done")
    hear()
    return True
