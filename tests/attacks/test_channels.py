"""What one box may tell another: of the same trial, so that the probe finds nothing, or of a later
one, which could then train on validation text.

The message goes by files that all boxes may read, as they may those of the system and of Python.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import pytest

from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import choose_sandbox


CHANNELS = Path(__file__).with_name("channels")
CONFINE = Path(__file__).parents[2] / "optuna_arrl" / "objective" / "_confine.py"
MESSAGE = "".join(f"{byte:08b}" for byte in b"val text")
# Of its bits: the kernel may do something with a page meanwhile, and codes mend that. Chance would
# get so many right once in a thousand million times.
ENOUGH = 56
SECONDS = 60


class GotThrough(AssertionError):
    """One box has heard what another told it."""


def known(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(raises=GotThrough, strict=True, reason=reason)


def is_message(heard: str) -> bool:
    return len(heard) == len(MESSAGE) and sum(map(str.__eq__, heard, MESSAGE)) >= ENOUGH


class Boxes:
    """Boxes that may read the same files, one bit of a message each."""

    def __init__(self, folder: Path, prepared: Prepared) -> None:
        self._folder = folder
        self._prepared = prepared
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.files = [self.shared / f"{number:02}" for number in range(len(MESSAGE))]

    def make_files_cold(self) -> None:
        """Files as any that nobody has read yet: on disk, and not in memory."""
        for path in self.files:
            with path.open("wb", buffering=0) as file:
                file.write(bytes(4096))
                os.fsync(file.fileno())
            os.utime(path, (1e9, 1e9))
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def start(self, channel: str, what: str, sandbox: str) -> subprocess.Popen[str]:
        folder = self._folder / f"{sandbox}-{what}"
        for name in ("view", "inbox", "scratch"):
            (folder / name).mkdir(parents=True)
        shutil.copyfile(CONFINE, folder / "view" / CONFINE.name)
        box = Box(
            view=folder / "view",
            inbox=folder / "inbox",
            scratch=folder / "scratch",
            readable=(self.shared,),
        )
        program = [sys.executable, "-I", "-S", "-B", "-c", (CHANNELS / channel).read_text(), what]
        secrets = (self._prepared.private / "val.bin", embedded_corpus_file())
        return subprocess.Popen(
            choose_sandbox(sandbox, secrets=secrets, readable=self._prepared.folder).command(
                box, [*program, *map(str, self.files)]
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={},
            cwd="/",
        )

    def heard(self, channel: str, sandbox: str) -> str:
        """What the second box says that the first has told; errors, if it came to that."""
        self.make_files_cold()
        teller = self.start(channel, "tell", sandbox)
        try:
            assert teller.stdin is not None and teller.stdout is not None
            teller.stdin.write(MESSAGE + "\n")
            teller.stdin.flush()
            teller.stdout.readline()  # it has told, and may wait or have ended
            with self.start(channel, "hear", sandbox) as hearer:
                out, errors = hearer.communicate("?" * len(MESSAGE) + "\n", timeout=SECONDS)
            teller.communicate(timeout=SECONDS)
        finally:
            teller.kill()
            teller.wait()
        return out.strip() or errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "channel",
    [
        "page_cache.py",
        pytest.param("page_faults.py", marks=known("the kernel's page cache is shared")),
        pytest.param("locks.py", marks=known("files of the system can be locked")),
        "access_times.py",
    ],
)
def test_box_cannot_tell_another(
    channel: str,
    isolating: str,
    tmp_path: Path,
    prepared: Prepared,
    record: Any,
    request: pytest.FixtureRequest,
) -> None:
    if channel == "access_times.py" and isolating == "landlock":
        request.applymarker(known("Landlock has no view of its own of the files"))
    boxes = Boxes(tmp_path, prepared)
    undefended = boxes.heard(channel, "none")
    if not is_message(undefended):
        pytest.skip(f"this file system does not carry the message: {undefended}")
    is_heard = is_message(boxes.heard(channel, isolating))
    words = ast.get_docstring(ast.parse((CHANNELS / channel).read_text()))
    record(
        f"{channel.removesuffix('.py')} ({isolating})",
        tries=words or "",
        undefended="another box hears it",
        defended="another box hears it" if is_heard else "nothing is heard",
    )
    if is_heard:
        raise GotThrough(f"a box in {isolating} has heard {len(MESSAGE)} bits of another")
