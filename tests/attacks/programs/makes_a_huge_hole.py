"""Makes a file of a tebibyte that takes no disk, for whoever reads it to choke on."""

import os
import signal

from child import hear
from child import say


def attack(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("sparse", "wb") as file:
        file.truncate(size)
    say("done")
    hear()
    return os.stat("sparse").st_size
