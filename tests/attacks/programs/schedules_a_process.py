"""Has a process outside run only when nothing else does."""

import os


def attack(pid):
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
