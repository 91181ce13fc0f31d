"""Opens settings of the kernel for writing, one of which names a program that root executes."""

import os

from child import any_of


def attack(paths):
    return any_of(*(lambda path=path: opened(path) for path in paths))


def opened(path):
    os.close(os.open(path, os.O_WRONLY))  # nothing is written
    return path
