"""Adds a module to a folder that programs import from: sitecustomize, .pth, torch.py or .pyc."""

import os

from child import any_of


def attack(folder, name, text):
    def write():
        with open(os.path.join(folder, name), "x") as file:
            file.write(text)

    def link():
        os.symlink(os.path.abspath(name), os.path.join(folder, name))

    return any_of(write, link)
