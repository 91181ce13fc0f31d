"""Sets a semaphore of somebody else, which it finds by number."""

from child import system_call


SETVAL = 16


def attack(number, value):
    system_call((66, 191), number, 0, SETVAL, value)
