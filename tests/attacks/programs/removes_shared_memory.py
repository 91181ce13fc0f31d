"""Removes shared memory of somebody else, which it finds by number."""

from child import system_call


IPC_RMID = 0


def attack(number):
    system_call((31, 195), number, IPC_RMID, 0)
