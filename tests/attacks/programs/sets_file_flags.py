"""Sets a flag of a file that it may read, by ioctl on a descriptor for reading."""

import array
import fcntl
import os


FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_NODUMP_FL = 0x80086601, 0x40086602, 0x40


def attack(path):
    fd = os.open(path, os.O_RDONLY)
    flags = array.array("i", [0, 0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    flags[0] |= FS_NODUMP_FL
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
