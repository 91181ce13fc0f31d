"""Types a line into somebody's terminal, for his shell to execute."""

import fcntl
import os
import termios


def attack(terminal, letter):
    fd = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(fd, termios.TIOCSTI, letter.encode())
