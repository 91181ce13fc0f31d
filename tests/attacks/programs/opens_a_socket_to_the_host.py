"""Opens a socket to whatever hosts this virtual machine."""

import socket


def attack():
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as host:
        return host.fileno() >= 0
