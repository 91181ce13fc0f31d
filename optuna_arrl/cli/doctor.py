"""`arrl doctor`: what this machine can do."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import os
from pathlib import Path
import shutil
import tempfile
from typing import TYPE_CHECKING

import click

from optuna_arrl.cli._study import BadInput
from optuna_arrl.cli._study import find_storage
from optuna_arrl.cli._study import shown_url
from optuna_arrl.cli._study import study_names
from optuna_arrl.cli._study import study_options


if TYPE_CHECKING:
    from optuna_arrl.frozen_env.profiles import Profile


__all__ = ["doctor"]

_FREE_BYTES = 1 << 30  # a study of 1000 trials leaves about 200 MB; scratch holds one model


@dataclass(frozen=True)
class _Finding:
    good: bool
    name: str
    text: str
    advice: str = ""


@click.command()
@study_options
def doctor(storage_url: str, study_name: str | None) -> None:
    """Say what this machine can do.

    And what to do about what it cannot. Exits with 1 when something stands in the way of a study.
    """
    from optuna_arrl.frozen_env.profiles import PROFILES
    from optuna_arrl.objective.machine import default_profile

    profile = PROFILES[default_profile()]
    well = True
    for finding in _findings(profile, storage_url, study_name):
        well &= finding.good
        click.echo(f"{'✓' if finding.good else '✗'} {finding.name:<9} {finding.text}")
        if finding.advice:
            click.echo(f"  {'':<9} {finding.advice}")
    click.get_current_context().exit(0 if well else 1)


def _findings(profile: Profile, storage_url: str, study_name: str | None) -> Iterator[_Finding]:
    from optuna_arrl.objective.sandbox import check_platform
    from optuna_arrl.objective.sandbox import SandboxUnavailable

    try:
        check_platform()
    except SandboxUnavailable as error:
        yield _Finding(False, "system", str(error))
        return  # the rest asks Linux
    yield _device(profile)
    yield _cores(profile)
    yield _memory(profile)
    yield _box()
    yield _corpus(profile)
    yield _storage(storage_url, study_name)
    yield _disk()


def _device(profile: Profile) -> _Finding:
    import torch

    from optuna_arrl.objective.machine import device_model

    text = f"{device_model(profile.device)}, profile {profile.name}, torch {torch.__version__}"
    if profile.device == "cuda" and not torch.cuda.is_available():
        return _Finding(
            False, "device", text, "This torch cannot use the GPU: install a CUDA build of torch."
        )
    return _Finding(True, "device", text)


def _cores(profile: Profile) -> _Finding:
    cores = len(os.sched_getaffinity(0))
    text = f"{cores} for this process, a trial uses {profile.threads}"
    advice = "Trials will be slower than elsewhere." if cores < profile.threads else ""
    return _Finding(cores >= profile.threads, "cores", text, advice)


def _memory(profile: Profile) -> _Finding:
    import psutil

    free = psutil.virtual_memory().available
    text = f"{_gib(free)} free, a trial may take {_gib(profile.memory_bytes)}"
    advice = "End other programs, or edits fail here that run elsewhere."
    good = free >= profile.memory_bytes
    return _Finding(good, "memory", text, "" if good else advice)


def _box() -> _Finding:
    from optuna_arrl.frozen_env.corpus import embedded_corpus_file
    from optuna_arrl.objective.sandbox import choose_sandbox
    from optuna_arrl.objective.sandbox import SANDBOXES
    from optuna_arrl.objective.sandbox import SandboxUnavailable

    holds, faults = [], []
    for name in SANDBOXES[1:-1]:
        try:
            with tempfile.TemporaryDirectory() as folder:
                choose_sandbox(name, secrets=(embedded_corpus_file(),), readable=Path(folder))
            holds.append(name)
        except SandboxUnavailable as error:
            faults.append(error.fault)
    if not holds:
        return _Finding(
            False,
            "box",
            f"no sandbox holds here: {'; '.join(faults)}",
            "Install bubblewrap, or run `arrl run --sandbox none` on scripts that you trust.",
        )
    text = f"{holds[0]} keeps edits from the network and from your files"
    return _Finding(True, "box", text + (f" (not {'; '.join(faults)})" if faults else ""))


def _corpus(profile: Profile) -> _Finding:
    from optuna_arrl.frozen_env.prepare import default_cache
    from optuna_arrl.frozen_env.prepare import find_prepared

    cache = default_cache()
    prepared = find_prepared(profile)
    if prepared is not None:
        return _Finding(True, "corpus", f"prepared in {prepared.root}")
    # Tried: root may write by its rights where a file system has no files made.
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=_nearest(cache)):
        return _Finding(True, "corpus", "not prepared yet; `arrl run` or `arrl prepare` does it")
    return _Finding(
        False, "corpus", f"{cache} cannot be written", "Set XDG_CACHE_HOME to a folder of yours."
    )


def _storage(url: str, study_name: str | None) -> _Finding:
    try:
        storage = find_storage(url)
    except BadInput as error:
        return _Finding(False, "storage", error.message, "Give another one with --storage URL.")
    if storage is None:
        return _Finding(True, "storage", f"{url} is not there yet; `arrl run` makes it")
    names = study_names(storage)
    if study_name is not None and study_name not in names:
        return _Finding(True, "storage", f"{shown_url(url)} has no study '{study_name}' yet")
    return _Finding(True, "storage", f"{shown_url(url)}, studies: {len(names)}")


def _disk() -> _Finding:
    folders = {"here": Path.cwd(), "for boxes": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(folder).free for name, folder in folders.items()}
    good = min(free.values()) >= _FREE_BYTES
    text = ", ".join(f"{_gib(size)} free {name} ({folders[name]})" for name, size in free.items())
    return _Finding(good, "disk", text, "" if good else "Make room, or set TMPDIR elsewhere.")


def _nearest(path: Path) -> Path:
    """Return the path itself, or the nearest one above it that is there."""
    return next(above for above in (path, *path.parents) if above.exists())


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
