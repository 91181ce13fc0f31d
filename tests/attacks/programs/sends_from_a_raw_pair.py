"""Sends from a pair of raw sockets, which of the Unix kind are datagram sockets too."""

import socket

from child import any_of


def attack(addresses, word):
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
    return any_of(*(lambda at=at: one.sendto(word.encode(), at) for at in addresses))
