"""Leaves a folder in place of its weights."""

import os


os.mkdir("model.safetensors")
os._exit(0)
