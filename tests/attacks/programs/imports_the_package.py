"""Imports this package, and asks it for its corpus."""

import subprocess
import sys


PROGRAM = """
import importlib.resources
import optuna_arrl
corpus = importlib.resources.files(optuna_arrl) / "_data" / "sotu.txt.xz"
print(corpus.read_bytes()[:64].hex())
"""


def attack():
    command = [sys.executable, "-I", "-B", "-c", PROGRAM]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise PermissionError(answer.stderr.strip().splitlines()[-1])
    return answer.stdout.strip()
