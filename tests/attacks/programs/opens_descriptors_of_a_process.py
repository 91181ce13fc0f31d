"""Opens again what another process has open."""


def attack(pid, fd):
    with open(f"/proc/{pid}/fd/{fd}", "rb") as file:
        return file.read(64).hex()
