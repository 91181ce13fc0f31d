"""Lets itself run on cores that it was not given."""

import os


def attack(cores):
    os.sched_setaffinity(0, cores)
    return sorted(os.sched_getaffinity(0))
