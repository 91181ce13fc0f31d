"""Does its work when it is imported, wherever that is."""

from pathlib import Path
import socket


MARKER = ""
PORT = 0
LEARNING_RATE = 0.03

Path(MARKER).write_text("imported")
socket.create_connection(("127.0.0.1", PORT), timeout=10).close()


def build_model():
    raise NotImplementedError


def train(model):
    raise NotImplementedError
