"""Takes more of the disk than it was given with files that it has removed and keeps open."""

import os

from child import hear
from child import say


def attack(mebibytes):
    fds = []
    for number in range(4):
        fds.append(os.open(f"{number}", os.O_CREAT | os.O_WRONLY))
        os.unlink(f"{number}")
        for _ in range(mebibytes // 4):
            os.write(fds[-1], bytes(1 << 20))
    say("done")
    hear()
    return len(fds)
