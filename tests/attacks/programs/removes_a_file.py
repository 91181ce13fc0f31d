"""Removes a file that it may read."""

import os


def attack(path):
    os.unlink(path)
