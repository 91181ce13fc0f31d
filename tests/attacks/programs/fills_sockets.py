"""Leaves memory in sockets that nobody reads, where it is nobody's."""

import socket

from child import hear
from child import say


def attack(mebibytes):
    held, left = [], mebibytes << 20
    while left > 0:
        pair = socket.socketpair()
        pair[0].setblocking(False)
        held.append(pair)
        try:
            while True:
                left -= pair[0].send(bytes(1 << 14))
        except BlockingIOError:
            pass
    say("done")
    hear()
    return bool(held)
