"""Takes back what it may no longer do: write files of any size, dump its core."""

import resource


def attack():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    return True
