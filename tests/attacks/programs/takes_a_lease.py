"""Takes a lease on a file that it may read: who opens it then has to wait for most of a minute."""

import fcntl
import os

from child import hear
from child import say


def attack(path):
    fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    say("taken")
    hear()
