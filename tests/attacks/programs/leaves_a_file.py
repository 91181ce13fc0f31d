"""Leaves a file for the next box in folders that everybody writes to."""

import contextlib


def attack(paths, word):
    for path in paths:
        with contextlib.suppress(OSError), open(path, "x") as file:
            file.write(word)
