"""Writes on somebody's terminal."""

import os


def attack(terminal, word):
    os.write(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), word.encode())
