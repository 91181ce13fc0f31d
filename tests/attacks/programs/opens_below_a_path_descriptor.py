"""Gets a descriptor that stands for the folder of the secret, and opens the name within."""

import os


def attack(folder, name):
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    return os.read(os.open(name, os.O_RDONLY, dir_fd=fd), 64).hex()
