"""Executes a program as root, which gives root its capabilities back."""

import subprocess


def attack():
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    (effective,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective.removeprefix("CapEff:"), 16) != 0
