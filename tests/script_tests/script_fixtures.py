"""Training scripts of different style, and the default target."""

from pathlib import Path


HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "target" / "train.py"
SCRIPTS = {
    path.stem: path.read_bytes().decode() for path in sorted((HERE / "scripts").glob("*.txt"))
} | {"target": TARGET.read_bytes().decode()}
