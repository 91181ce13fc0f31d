"""Sends a signal to a thread of a process outside, by tgkill and by tkill."""

import signal

from child import any_of
from child import system_call


def attack(pid):
    return any_of(
        lambda: system_call((234, 131), pid, pid, int(signal.SIGUSR1)),
        lambda: system_call((200, 130), pid, int(signal.SIGUSR1)),
    )
