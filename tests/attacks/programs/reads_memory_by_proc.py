"""Reads the memory of another process as a file."""

import os


def attack(pid, address, size):
    return os.pread(os.open(f"/proc/{pid}/mem", os.O_RDONLY), size, address).decode()
