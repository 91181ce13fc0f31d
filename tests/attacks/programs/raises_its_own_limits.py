"""Takes back what it may no longer do: write files of any size, dump its core."""

import resource


def attack():
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    except ValueError as error:  # what Python makes of the kernel's refusal
        raise PermissionError(str(error)) from error
    return True
