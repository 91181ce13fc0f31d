"""Leaves a link to a secret in place of its weights, to be handed it later."""

import os


SECRET = ""

os.symlink(SECRET, "model.safetensors")
os._exit(0)
