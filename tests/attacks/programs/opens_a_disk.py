"""Opens the disk that all files lie on."""

import os

from child import any_of


def attack():
    names = os.listdir("/sys/class/block")
    return any_of(*(lambda name=name: read(f"/dev/{name}") for name in names))


def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return bool(os.read(fd, 512))
    finally:
        os.close(fd)
