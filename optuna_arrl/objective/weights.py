"""What a trained model leaves behind, looked at from outside before anyone loads it."""

from __future__ import annotations

import json
import os
from pathlib import Path
import stat
from typing import BinaryIO

import numpy as np
from safetensors import safe_open
from safetensors import SafetensorError

from optuna_arrl.objective.boxes import our_own


__all__ = ["WEIGHTS", "BadWeights", "check_finite", "copy_weights", "take_weights"]

WEIGHTS = "model.safetensors"
_CHUNK_BYTES = 1 << 20
# Ten thousand tensors. The library takes a hundred times as much, and minutes of our time.
_MOST_HEADER_BYTES = 1 << 20
_SHOWN_CHARACTERS = 80


class BadWeights(ValueError):
    """The weights that a trial left cannot be used; the message says why."""


def take_weights(folder_fd: int, target: Path, most_bytes: int) -> None:
    """Copy the weights that a dead box has left, if they are a plain file of bounded size.

    Args:
        folder_fd: The folder that the box could write to.
        target: Where the copy goes.
        most_bytes: Of the file.

    Raises:
        BadWeights: There is none, or something else stands in its place.
        MachineFault: It could not be copied.
    """
    # Never follow a link, never wait on a FIFO; what is checked is what is read: one descriptor.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(WEIGHTS, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        raise BadWeights(f"it ended without leaving a {WEIGHTS}") from None
    except OSError:
        raise BadWeights(f"its {WEIGHTS} is not a regular file") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise BadWeights(f"its {WEIGHTS} is not a regular file")
        if status.st_size > most_bytes:
            raise BadWeights(f"its {WEIGHTS} has more than {most_bytes} bytes")
        with our_own("the weights could not be copied"):
            with os.fdopen(fd, "rb", closefd=False) as file:
                _copy_without_holes(file, target)
            target.chmod(0o444)
    finally:
        os.close(fd)


def copy_weights(source: Path, target: Path) -> None:
    """Copy weights that have been taken; where they are zero the copy takes no space either."""
    with source.open("rb") as file:
        _copy_without_holes(file, target)


def _copy_without_holes(file: BinaryIO, target: Path) -> None:
    # A box may claim a gigabyte of zeros that it never wrote.
    size = 0
    with target.open("xb") as copy:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            if chunk.strip(b"\0"):
                copy.write(chunk)
            else:
                copy.seek(size)
        copy.truncate(size)


# Bits that are all set in a number that is not finite, and how to view the numbers.
_NOT_FINITE = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def check_finite(path: Path) -> None:
    """Refuse weights that are broken or not finite.

    numpy has no bfloat16, so the bits are looked at: an exponent of all ones is inf or NaN.

    Raises:
        BadWeights: With the name of the tensor.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > _MOST_HEADER_BYTES:
            raise BadWeights(
                f"its {WEIGHTS} cannot be read: the names and shapes of its tensors take more "
                f"than {_MOST_HEADER_BYTES >> 20} MiB"
            )
        try:
            with safe_open(path, framework="numpy"):
                pass  # the library has checked header, offsets and overlaps
        except SafetensorError as e:
            raise BadWeights(f"its {WEIGHTS} cannot be read: {_plain(str(e))}") from None
        header = json.loads(file.read(header_bytes))
    for name, tensor in header.items():
        if name == "__metadata__" or tensor["dtype"] not in _NOT_FINITE:
            continue
        view, mask = _NOT_FINITE[tensor["dtype"]]
        begin, end = tensor["data_offsets"]
        if begin == end:
            continue
        offset = 8 + header_bytes + begin
        count = (end - begin) // np.dtype(view).itemsize
        bits = np.memmap(path, dtype=view, mode="r", offset=offset, shape=(count,))
        for start in range(0, count, _CHUNK_BYTES):  # not a copy of it all
            if bool(((bits[start : start + _CHUNK_BYTES] & mask) == mask).any()):
                raise BadWeights(f"the trained weights are not finite: {_plain(name)}")


def _plain(text: str) -> str:
    """What edited code has named, as it may be shown on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN_CHARACTERS])
