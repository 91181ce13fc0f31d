"""Reads some files and not others: when a file was last read is there for the next box to see."""

import os
import sys


what, files = sys.argv[1], sys.argv[2:]
if what == "tell":
    for bit, path in zip(sys.stdin.readline().strip(), files, strict=True):
        if bit == "1":
            with open(path, "rb") as file:
                file.read(1)
else:
    # Never read since it was written, or read after that.
    read = [os.stat(path).st_atime_ns > os.stat(path).st_mtime_ns for path in files]
    print("".join("01"[each] for each in read))
