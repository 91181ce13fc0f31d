"""Sends a signal by a descriptor that stands for a process outside."""

import os
import signal


def attack(pid):
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGUSR1)
