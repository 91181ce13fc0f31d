"""Reads the command line of every process that it can see, in search of a secret argument."""

import os


def attack(prefix):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        for argument in arguments:
            if argument.startswith(prefix):
                return argument.removeprefix(prefix)
    raise PermissionError("it is in no command line that may be read")
