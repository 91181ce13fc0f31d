"""Sends an open descriptor of its own to a process outside, which then has it for good."""

import os
import socket

from child import any_of


def attack(addresses, word):
    read, write = os.pipe()
    os.write(write, word.encode())
    kinds = (socket.SOCK_RAW, socket.SOCK_DGRAM)

    def send(kind, at):
        one, _ = socket.socketpair(socket.AF_UNIX, kind)
        return socket.send_fds(one, [b"x"], [read], 0, at)

    return any_of(*(lambda k=kind, at=at: send(k, at) for kind in kinds for at in addresses))
