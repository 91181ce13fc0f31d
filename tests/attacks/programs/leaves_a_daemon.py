"""Leaves its session and its parent as daemons do, ignores signals, and lives on."""

import contextlib
import os
import signal

from child import say


def attack():
    told, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                with contextlib.suppress(OSError):
                    signal.signal(number, signal.SIG_IGN)
            say("done")
            os.write(tell, b"x")
            while True:
                signal.pause()
        os._exit(0)
    os.read(told, 1)
    return True
