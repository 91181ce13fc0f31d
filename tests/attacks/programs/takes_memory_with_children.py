"""Takes more memory than it was given, in processes of which each has little."""

import os
import signal

from child import hear
from child import say


def attack(mebibytes):
    told, tell = os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            taken = b"x" * (mebibytes << 18)
            os.write(tell, b"x")
            while taken:
                signal.pause()
    for _ in range(4):
        os.read(told, 1)
    say("done")
    hear()
    return True
