"""Arguments of the benchmarks' commands: one sentence where they are wrong."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


__all__ = ["at_least", "file", "folder", "growing_file", "one_of", "seeds"]


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads an integer that is not below a bound."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return number

    return read


def seeds(text: str) -> list[int]:
    """Return the seeds that an argument such as ``0-19`` or ``3,5`` names."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} names no seeds: write 0-19 or 3,5")
        if int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f"{part!r} names no seeds: the lower one comes first")
        found += range(int(first), int(last or first) + 1)
    return found


def one_of(*known: str) -> Callable[[str], list[str]]:
    """Return what reads known names with commas between them."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}, only {', '.join(known)}")
        return names

    return read


def file(text: str) -> Path:
    """Return a file, which may be one that is not there yet."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file")
    return path


def growing_file(text: str) -> Path:
    """Return a file that records are added to: told before hours of work are done."""
    path = file(text)
    if path.suffix == ".gz":
        raise argparse.ArgumentTypeError(
            f"{text} is gzipped, and so only read: gunzip it, or name another file"
        )
    return path


def folder(text: str) -> Path:
    """Return a folder, which may be one that is not there yet."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file: name a folder")
    return path
