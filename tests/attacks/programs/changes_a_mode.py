"""Takes from everybody the right to read a file that lies outside."""

import ctypes
import os

from child import any_of
from child import system_call


AT_FDCWD = -100


def attack(path):
    name = ctypes.c_char_p(path.encode())
    return any_of(
        lambda: os.chmod(path, 0),
        lambda: os.fchmod(os.open(path, os.O_RDONLY), 0),
        lambda: system_call((452, 452), AT_FDCWD, name, 0, 0),
    )
