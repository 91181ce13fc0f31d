"""Leaves a note in an extended attribute of a file that lies outside."""

import os


def attack(path, name, word):
    os.setxattr(path, name, word.encode())
