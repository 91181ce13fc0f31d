"""Tells what it knows to a server on this machine."""

import socket


def attack(port, word):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(word.encode())
