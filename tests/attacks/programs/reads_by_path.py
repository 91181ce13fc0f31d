"""Reads the validation tokens, the embedded corpus or another file by its path."""


def attack(path):
    with open(path, "rb") as file:
        return file.read(64).hex()
