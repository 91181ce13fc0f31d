"""Ignores every signal that can be ignored, and goes on."""

import contextlib
import signal

from child import say


def attack():
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    say("done")
    while True:
        signal.pause()
