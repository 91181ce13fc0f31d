"""Gives a file that lies outside to another group."""

import os


def attack(path, group):
    os.chown(path, -1, group)
