"""Asks the kernel for a copy of a descriptor of another process."""

import os

from child import system_call


def attack(pid, fd):
    copy = system_call((438, 438), os.pidfd_open(pid), fd, 0)
    return os.pread(copy, 64, 0).hex()
