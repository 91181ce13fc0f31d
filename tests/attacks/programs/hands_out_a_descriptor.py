"""Sends an open descriptor of its own to a process outside, which then has it for good."""

import array
import os
import socket

from child import any_of


def attack(addresses, word):
    read, write = os.pipe()
    os.write(write, word.encode())
    kinds = (socket.SOCK_RAW, socket.SOCK_DGRAM)

    def send(kind, at):
        one, _ = socket.socketpair(socket.AF_UNIX, kind)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read]))
        return one.sendmsg([b"x"], [rights], 0, at)

    return any_of(*(lambda k=kind, at=at: send(k, at) for kind in kinds for at in addresses))
