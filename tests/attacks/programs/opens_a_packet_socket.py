"""Opens a socket that sees every packet of the machine."""

import socket


def attack():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
        return packets.fileno() >= 0
