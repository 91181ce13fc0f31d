"""Opens a terminal with access mode 3, for neither reading nor writing, and asks its size."""

import fcntl
import os
import struct
import termios


NEITHER = 3


def attack(terminal):
    fd = os.open(terminal, NEITHER | os.O_NOCTTY)
    return list(struct.unpack("4H", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))))
