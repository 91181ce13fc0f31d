"""Makes a symbolic link in its own folder and reads the secret through it."""

import os


def attack(path):
    os.symlink(path, "a link")
    try:
        with open("a link", "rb") as file:
            return file.read(64).hex()
    finally:
        os.unlink("a link")
