"""Ends its first thread, which the kernel asks for memory of all, and takes it in another."""

import threading

from child import hear
from child import say
from child import system_call


def attack(mebibytes):
    threading.Thread(target=take, args=(mebibytes,)).start()
    system_call((60, 93), 0)  # ends this thread alone


def take(mebibytes):
    # Once the first thread has ended: this state of a process is Z, as if it had ended.
    while True:
        with open("/proc/self/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                break
    taken = b"x" * (mebibytes << 20)
    say("done")
    hear()
    say(len(taken))
    system_call((231, 94), 0)
