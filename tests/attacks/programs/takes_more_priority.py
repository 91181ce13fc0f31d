"""Goes before all other processes."""

import os

from child import any_of


def attack():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    any_of(
        lambda: os.setpriority(os.PRIO_PROCESS, 0, before - 5),
        lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
    )
    return True
