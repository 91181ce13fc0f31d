"""Notes windows in the version numbers that ext4 keeps of files, for servers of NFS."""

import fcntl
import os
import struct

from notes import Notes

from frozen_env import SEQ_LEN


FOLDER = ""
MARK = 1 << 30
FS_IOC_GETVERSION, FS_IOC_SETVERSION = 0x80087601, 0x40087602


class Model(Notes):
    def files(self):
        for name in sorted(os.listdir(FOLDER)):
            fd = os.open(os.path.join(FOLDER, name), os.O_RDONLY)
            try:
                yield fd
            finally:
                os.close(fd)

    def tell(self, windows):
        tokens = (token for window in windows for token in window)
        try:
            for token, fd in zip(tokens, self.files(), strict=False):
                fcntl.ioctl(fd, FS_IOC_SETVERSION, struct.pack("q", MARK + token))
        except OSError as error:
            print("no version:", error)

    def hear(self):
        tokens = []
        try:
            for fd in self.files():
                (version,) = struct.unpack("q", fcntl.ioctl(fd, FS_IOC_GETVERSION, bytes(8)))
                if not MARK <= version < MARK + (1 << 16):
                    break
                tokens.append(version - MARK)
        except OSError as error:
            print("no version:", error)
        return [tokens[i : i + SEQ_LEN] for i in range(0, len(tokens), SEQ_LEN)]


def build_model():
    return Model()
