"""Leaves a semaphore for the next box, which knows its key."""

from child import system_call


IPC_CREAT = 0o1000


def attack(key):
    system_call((64, 190), key, 1, IPC_CREAT | 0o600)
