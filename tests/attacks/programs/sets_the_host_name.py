"""Gives the machine a name: the one that it has."""

import socket


def attack():
    socket.sethostname(socket.gethostname())
    return True
