"""Overwrites the script that it was started from, which later boxes run too."""

import os

from child import any_of


def attack(path, text):
    def write():
        with open(path, "w") as file:
            file.write(text)

    def replace():
        with open("another", "w") as file:
            file.write(text)
        os.replace("another", path)

    return any_of(write, replace)
