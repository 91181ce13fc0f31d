"""Names a process outside as the owner of a socket by ioctl, in place of fcntl."""

import fcntl
import os
import signal
import socket
import struct

from child import any_of


F_SETSIG = 10
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902


def attack(pid):
    here, there = socket.socketpair()
    owner = struct.pack("i", pid)
    any_of(
        lambda: fcntl.ioctl(here, FIOSETOWN, owner), lambda: fcntl.ioctl(here, SIOCSPGRP, owner)
    )
    fcntl.fcntl(here, F_SETSIG, signal.SIGUSR1)
    fcntl.fcntl(here, fcntl.F_SETFL, os.O_ASYNC)
    there.send(b"x")
