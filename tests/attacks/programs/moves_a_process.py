"""Keeps a process outside to one core."""

import os


def attack(pid, core):
    os.sched_setaffinity(pid, [core])
