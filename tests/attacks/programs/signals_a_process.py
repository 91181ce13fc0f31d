"""Sends a signal to a process outside."""

import os
import signal


def attack(pid):
    os.kill(pid, signal.SIGUSR1)
