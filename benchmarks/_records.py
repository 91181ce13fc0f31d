"""One JSON object a line: what a benchmark has measured so far, so that it can go on.

A file whose name ends in ``.gz`` is gzipped, and only read.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import math
import os
from pathlib import Path
from typing import Any
import zlib

import numpy as np
from scipy.stats import t as student_t


def load(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; of a last line that was cut off, nothing.

    Raises:
        SystemExit: When another line is no record, with the file's and the line's name.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise SystemExit(f"{path} is no whole gzip file: name another file.") from error
    lines = content.decode("utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # whoever was killed wrote no end of line
        try:
            records.append(json.loads(line))
        except ValueError:
            raise SystemExit(
                f"Line {number} of {path} is no record: delete that line, or name another file."
            ) from None
    return records


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record to a plain file, in place of what a killed process left of its last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two commands may write to one file
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t)."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), math.inf
    quantile = float(student_t.ppf(0.975, n - 1))
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
