"""Makes a connected pair of datagram sockets, and sends from it to somebody else."""

import socket

from child import any_of


def attack(addresses, word):
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return any_of(*(lambda at=at: one.sendto(word.encode(), at) for at in addresses))
