"""Has so many files open that whoever reads the list of them is kept busy."""

import os

from child import hear
from child import say


def attack(children, descriptors):
    told, tell = os.pipe()
    fd = os.open("/dev/null", os.O_RDONLY)
    for _ in range(descriptors):
        os.dup(fd)
    for _ in range(children):
        if os.fork() == 0:
            os.write(tell, b"x")
            hear()
    for _ in range(children):
        os.read(told, 1)
    say("done")
    hear()
    return True
