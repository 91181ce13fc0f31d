"""Leaves weights of a terabyte, nearly all of it a hole, for whoever copies them."""

import os


with open("model.safetensors", "wb") as file:
    file.truncate(1 << 40)
os._exit(0)
