"""Writes memory into a file that the kernel shows to nobody and counts nowhere."""

import mmap
import os

from child import system_call


MEMFD_SECRET = (447, 447)
PIECE, PIECES = 4 << 20, 4


def attack():
    fd = system_call(MEMFD_SECRET, 0)
    os.ftruncate(fd, PIECES * PIECE)
    for number in range(PIECES):  # mapped a piece at a time: few pages are locked at once
        with mmap.mmap(fd, PIECE, offset=number * PIECE) as piece:
            piece[:: mmap.PAGESIZE] = bytes([1] * (PIECE // mmap.PAGESIZE))
    return True
