"""Writes a file without a name into the first folder of the system or the user that lets it."""

import os

from child import any_of


def attack(folders):
    return any_of(*(lambda folder=folder: write(folder) for folder in folders))


def write(folder):
    fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(fd, b"x")
    os.close(fd)  # gone, as it had no name
    return folder
