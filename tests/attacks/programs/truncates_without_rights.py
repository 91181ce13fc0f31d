"""Empties a file by opening it with access mode 3, for neither reading nor writing."""

import os


NEITHER = 3


def attack(path):
    os.close(os.open(path, NEITHER | os.O_TRUNC))
