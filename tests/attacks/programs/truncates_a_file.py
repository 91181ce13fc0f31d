"""Empties a file that it may only read, by truncate or by opening it for reading."""

import os

from child import any_of


def attack(path):
    return any_of(
        lambda: os.truncate(path, 0), lambda: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
    )
