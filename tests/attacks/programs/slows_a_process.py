"""Lowers the priority of a process outside."""

import os


def attack(pid):
    os.setpriority(os.PRIO_PROCESS, pid, 19)
