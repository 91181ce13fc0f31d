"""What stands between edited code and the machine.

A sandbox decides how a box's command is started; everything else about a box (its folders, its
environment, its limits) is the same for all of them. A further back end is one more class with
the members of :class:`Sandbox`: wrapping the command is enough for bubblewrap, and for a small
trusted program that confines itself (Landlock, seccomp) and then becomes the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os
from pathlib import Path
from typing import ClassVar
from typing import Protocol


__all__ = ["Box", "PlainProcess", "Sandbox", "box_environment"]

# Where a machine keeps its CUDA driver and which device is meant: nothing else is inherited.
_INHERITED = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# By default glibc gives every large activation back to the kernel and faults it in again a step
# later. Keeping them, in huge pages, gave 290 steps instead of 250 on a CPU (docs/LOG.md).
_ALLOCATOR = {
    "GLIBC_TUNABLES": (
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"
        ":glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456"
    ),
    "THP_MEM_ALLOC_ENABLE": "1",
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """The folders of one box.

    Attributes:
        view: Holds ``frozen_env/``, this box's own copy. Read only.
        scratch: Working folder, empty at the start: the only place to write to.
        readable: Whatever else the box may read: the prepared data, the script, the weights.
    """

    view: Path
    scratch: Path
    readable: tuple[Path, ...]


class Sandbox(Protocol):
    """A way to start a box.

    Attributes:
        name: As recorded with every trial.
        isolated: True when edited code can reach no more than its box.
    """

    name: ClassVar[str]
    isolated: ClassVar[bool]

    def command(self, box: Box, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in ``box``; open descriptors pass through."""
        ...


class PlainProcess:
    """No sandbox: the command runs as the user, and may do what the user may.

    Clean environment, fresh folders and the supervisor's limits keep honest edits apart; they do
    not hold hostile ones.
    """

    name: ClassVar[str] = "none"
    isolated: ClassVar[bool] = False

    def command(self, box: Box, command: Sequence[str]) -> list[str]:
        return list(command)


def box_environment(box: Box, *, data: Path, profile_json: str, threads: int) -> dict[str, str]:
    """The whole environment of a box, from an allow list.

    Args:
        box: Its scratch is home and temporary folder.
        data: Folder with the training tokens and the tokenizer.
        profile_json: The profile's fields as a JSON object.
        threads: CPU threads for the numeric libraries; 0 leaves it to them.
    """
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(box.scratch),
        "TMPDIR": str(box.scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
        **_ALLOCATOR,
        "ARRL_DATA": str(data),
        "ARRL_PROFILE": profile_json,
    }
    if threads:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return environment | {name: os.environ[name] for name in _INHERITED if name in os.environ}
