"""Puts a file of its own in the place of one that it may read."""

import os


def attack(path, text):
    with open("another", "w") as file:
        file.write(text)
    os.replace("another", path)
