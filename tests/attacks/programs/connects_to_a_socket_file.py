"""Tells what it knows to a Unix socket in a folder that it may not read."""

import socket


def attack(path, word):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(word.encode())
