"""Leaves a segment of shared memory for the next box, which knows its key."""

from child import system_call


IPC_CREAT = 0o1000


def attack(key):
    system_call((29, 194), key, 4096, IPC_CREAT | 0o600)
