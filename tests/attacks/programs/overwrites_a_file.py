"""Overwrites a file that it may read: the frozen environment, the training tokens."""


def attack(path, text):
    with open(path, "r+") as file:
        file.write(text)
