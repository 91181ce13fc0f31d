"""Moves the secret into its own folder, where everything may be read."""

import os


def attack(path):
    os.rename(path, "moved")
    with open("moved", "rb") as file:
        return file.read(64).hex()
