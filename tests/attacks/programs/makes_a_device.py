"""Makes a device of its own, by which the machine's memory or disks could be read."""

import os
import stat


def attack():
    os.mknod("a device", stat.S_IFCHR | 0o600, os.makedev(1, 3))  # null: harmless
    os.unlink("a device")
    return True
