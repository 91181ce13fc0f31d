"""Takes the handling of page faults from the kernel, as exploits do to win races."""

from child import system_call


USER_MODE_ONLY = 1


def attack():
    return system_call((323, 282), USER_MODE_ONLY) > 0
