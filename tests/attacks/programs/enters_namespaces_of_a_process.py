"""Joins the mount namespace of a process outside."""

import ctypes
import os

from child import any_of
from child import checked
from child import libc


def attack(pids):
    return any_of(*(lambda pid=pid: enter(pid) for pid in pids))


def enter(pid):
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    checked(libc.setns(fd, ctypes.c_int(0)))
    return True
