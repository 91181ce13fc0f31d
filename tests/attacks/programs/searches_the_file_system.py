"""Walks through folders above its own and reads every file that is called as the secret is."""

import os


def attack(top, name):
    for folder, _, names in os.walk(top):
        if name in names:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    return file.read(64).hex()
            except OSError:
                pass
    raise PermissionError("nothing was found that may be read")
