"""Locks the files by which trials share the cores, so that nobody else can have any."""

import fcntl
import os

from child import hear
from child import say


def attack(path):
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    say("taken")
    hear()
