"""Gets a descriptor that stands for the path of the secret, and opens that again for reading."""

import os


def attack(path):
    fd = os.open(path, os.O_PATH)
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        return file.read(64).hex()
