"""Makes empty files in a folder that lies in memory, where each takes some that is nobody's."""

import os

from child import hear
from child import say


def attack(folder, count):
    for number in range(count):
        os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_WRONLY))
    say("done")
    hear()
    return True
