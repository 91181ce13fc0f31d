"""Names a process outside as the owner of a socket, and has the kernel signal its data to it."""

import fcntl
import os
import signal
import socket

from child import any_of


F_SETSIG = 10


def attack(pid):
    here, there = socket.socketpair()
    any_of(
        lambda: fcntl.fcntl(here, fcntl.F_SETOWN, pid),
        lambda: fcntl.fcntl(here, fcntl.F_SETOWN, -pid),
    )
    fcntl.fcntl(here, F_SETSIG, signal.SIGUSR1)
    fcntl.fcntl(here, fcntl.F_SETFL, os.O_ASYNC)
    there.send(b"x")
