"""Starts threads until it is stopped, all in one process; a few hundred at most."""

import threading

from child import hear
from child import say


def attack(count):
    threading.stack_size(65536)
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(count)]
    for thread in threads:
        thread.start()
    say("done")
    hear()
    end.set()
    return True
