"""Goes up from its own folder by `..`, folder by folder, to where the secret lies."""

import os


def attack(path):
    os.chdir("/".join([".."] * os.getcwd().count("/")))
    with open(path.lstrip("/"), "rb") as file:
        return file.read(64).hex()
