"""Ends a little after its deadline, while those who hold it to that look at something else."""

import json
import sys
import time


deadline = json.loads(sys.modules["__main__"].task)["deadline"]
while time.monotonic() < deadline + 0.2:
    pass
