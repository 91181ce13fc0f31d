"""Opens a socket to the kernel's ciphers."""

import socket


def attack():
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as cipher:
        return cipher.fileno() >= 0
