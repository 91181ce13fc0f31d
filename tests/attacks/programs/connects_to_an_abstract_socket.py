"""Tells what it knows to a Unix socket that has a name and no file."""

import socket


def attack(name, word):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + name)
        connection.sendall(word.encode())
