"""Opens a socket to the kernel's own tables of networks."""

import socket


def attack():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
        netlink.bind((0, 0))
        return netlink.getsockname()[0] > 0
