"""Leaves a message queue for the next box, which knows its key."""

from child import system_call


IPC_CREAT = 0o1000


def attack(key):
    system_call((68, 186), key, IPC_CREAT | 0o600)
