"""Leaves a number in the version of a file that it may read, by ioctl."""

import fcntl
import os
import struct


FS_IOC_SETVERSION = 0x40087602


def attack(path, number):
    fcntl.ioctl(os.open(path, os.O_RDONLY), FS_IOC_SETVERSION, struct.pack("l", number))
