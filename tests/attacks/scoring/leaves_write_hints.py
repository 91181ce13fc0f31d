"""Notes windows in the hints on how long data will live, which any owner of a file may set."""

import fcntl
import os
import struct

from notes import Notes

from frozen_env import SEQ_LEN


FOLDER = ""
DIGITS = 5  # of two bits, to a token
F_GET_RW_HINT, F_SET_RW_HINT = 1035, 1036


class Model(Notes):
    def files(self):
        for name in sorted(os.listdir(FOLDER)):
            fd = os.open(os.path.join(FOLDER, name), os.O_RDONLY)
            try:
                yield fd
            finally:
                os.close(fd)

    def tell(self, windows):
        digits = (
            token >> 2 * digit & 3
            for window in windows
            for token in window
            for digit in range(DIGITS)
        )
        try:
            for digit, fd in zip(digits, self.files(), strict=False):
                fcntl.fcntl(fd, F_SET_RW_HINT, struct.pack("Q", digit + 1))
        except OSError as error:
            print("no hint:", error)

    def hear(self):
        digits = []
        try:
            for fd in self.files():
                (hint,) = struct.unpack("Q", fcntl.fcntl(fd, F_GET_RW_HINT, bytes(8)))
                if hint == 0:
                    break
                digits.append(hint - 1)
        except OSError as error:
            print("no hint:", error)
        tokens = [
            sum(digit << 2 * n for n, digit in enumerate(digits[i : i + DIGITS]))
            for i in range(0, len(digits), DIGITS)
        ]
        return [tokens[i : i + SEQ_LEN] for i in range(0, len(tokens), SEQ_LEN)]


def build_model():
    return Model()
