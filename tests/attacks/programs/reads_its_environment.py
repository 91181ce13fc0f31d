"""Looks for a variable of the study in its own environment and in that of its first process."""

import os


def attack(variable):
    found = f"{variable}=".encode()
    for path in ("/proc/self/environ", f"/proc/{os.getppid()}/environ", "/proc/1/environ"):
        try:
            with open(path, "rb") as file:
                entries = file.read().split(b"\0")
        except OSError:
            continue
        for entry in entries:
            if entry.startswith(found):
                return entry[len(found) :].decode()
    raise FileNotFoundError("it is in no environment that may be read")
