"""Reads the environment of every process that it can see, in search of a secret variable."""

import os

from child import any_of


def attack(variable):
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    found = f"{variable}=".encode()
    return any_of(*(lambda pid=pid: search(pid, found) for pid in pids))


def search(pid, found):
    with open(f"/proc/{pid}/environ", "rb") as file:
        for entry in file.read().split(b"\0"):
            if entry.startswith(found):
                return entry[len(found) :].decode()
    raise FileNotFoundError("it is in no environment that may be read")
