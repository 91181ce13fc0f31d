"""Has a process outside wait for the disk until nobody else does."""

from child import system_call


IOPRIO_WHO_PROCESS, IDLE = 1, 3 << 13


def attack(pid):
    system_call((251, 30), IOPRIO_WHO_PROCESS, pid, IDLE)
