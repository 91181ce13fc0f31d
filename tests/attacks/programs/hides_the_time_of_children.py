"""Has its children compute, and nobody take account of their time when they end."""

import os
import signal
import time


def attack(children, seconds):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(children):
        if os.fork() == 0:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            os._exit(0)
        try:
            os.wait()
        except ChildProcessError:  # it has ended, and was reaped without account
            pass
    return True
