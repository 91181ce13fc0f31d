"""Tells what it knows in a datagram to a port of this machine."""

import socket


def attack(port, word):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(word.encode(), ("127.0.0.1", port))
