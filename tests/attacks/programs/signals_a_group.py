"""Sends a signal to the process group of a process outside."""

import os
import signal


def attack(pid):
    os.killpg(pid, signal.SIGUSR1)
