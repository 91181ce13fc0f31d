"""Opens the disk that all files lie on."""

import os

from child import any_of


def attack():
    names = os.listdir("/sys/class/block")
    return any_of(*(lambda name=name: first_block(f"/dev/{name}") for name in names))


def first_block(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        if len(os.read(fd, 512)) < 512:
            raise FileNotFoundError("there is nothing on this disk")
        return True
    finally:
        os.close(fd)
