"""What a study's scores depend on besides the edit, and the refusal to mix two of them.

Scores of one study can be compared because everything but the edit is held fixed. The manifest
lists those things with their hashes. It is written once, by whoever opens the study first, as a
system attribute of the study; whoever comes with another manifest is refused.
"""

from __future__ import annotations

from dataclasses import asdict
import hashlib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version
from pathlib import Path
import platform
from typing import Any
from typing import TYPE_CHECKING

from optuna_arrl._version import __version__
from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.prepare import frozen_sources
from optuna_arrl.objective.machine import device_model
from optuna_arrl.trajectory import MANIFEST_KEY


if TYPE_CHECKING:
    from optuna.study import Study

    from optuna_arrl.frozen_env.prepare import Prepared


__all__ = [
    "ManifestMismatch",
    "check_manifest",
    "make_manifest",
    "measuring_sources",
    "study_reference_seconds",
]

# What was noted only helps a reader to explain a difference; it is never compared.
_NOTED = "noted"
_REFERENCE = "reference_seconds"
# These write records and queues; everything else in this folder measures.
_NOT_MEASURING = frozenset(
    ("__init__.py", "machine.py", "manifest.py", "objective.py", "records.py", "requeue.py")
)
_NAMED_AT_MOST = 4


class ManifestMismatch(ValueError):
    """A study was made with other files, sizes or hardware than this process has."""


def measuring_sources() -> dict[str, str]:
    """File → sha256 of everything of this package that measures: no edit may touch it."""
    folder = Path(__file__).parent
    scorer = (path for path in folder.glob("*.py") if path.name not in _NOT_MEASURING)
    return {
        **{f"frozen_env/{name}": digest for name, digest in frozen_sources().items()},
        **{f"objective/{path.name}": _sha256(path.read_bytes()) for path in sorted(scorer)},
        f"_data/{embedded_corpus_file().name}": _sha256(embedded_corpus_file().read_bytes()),
    }


def make_manifest(
    prepared: Prepared, target_source: str, *, reference_seconds: float | None = None
) -> dict[str, Any]:
    """List everything but the edit on which a score depends.

    Args:
        prepared:
            The prepared corpus, with the profile that is in force.
        target_source:
            The unmodified training script.
        reference_seconds:
            Of a piece of reference work on this machine, if budgets are paced. The study's first
            process says for all what a budget second is.

    Returns:
        JSON of about 4 kB. ``profile`` holds sizes, budget, threads and memory limit by name.
    """
    return {
        "sources": measuring_sources(),
        "corpus": dict(prepared.manifest["sha256"]),
        "target": _sha256(target_source.encode("utf-8")),
        "profile": asdict(prepared.profile),
        "device": device_model(prepared.profile.device),
        _NOTED: {
            "optuna-arrl": __version__,
            "optuna": _installed("optuna"),
            "torch": _installed("torch"),
            "python": platform.python_version(),
            "corpus": prepared.manifest["corpus"],
            _REFERENCE: reference_seconds,
        },
    }


def check_manifest(study: Study, manifest: dict[str, Any]) -> bool:
    """Write the manifest of a study that has none, and refuse a study that has another.

    Study attributes are last-write-wins, so of two processes that start together both may find
    none. What was written is therefore read again, and callers check once more before they let a
    trial complete: a process whose manifest was overwritten by a different one is refused then,
    and of the two only one can complete trials.

    Args:
        study:
            The study to be opened.
        manifest:
            What :func:`make_manifest` returned in this process.

    Returns:
        Whether the study already had its manifest.

    Raises:
        ManifestMismatch:
            The study was made with another manifest; the message names the fields.
    """
    known = _stored(study)
    if known is None:
        study._storage.set_study_system_attr(study._study_id, MANIFEST_KEY, manifest)
    found = _stored(study) if known is None else known
    differences = _differences(found or {}, manifest)
    if differences:
        named = "; ".join(differences[:_NAMED_AT_MOST])
        if len(differences) > _NAMED_AT_MOST:
            named += f"; and {len(differences) - _NAMED_AT_MOST} more"
        raise ManifestMismatch(
            f"Study '{study.study_name}' was made under other conditions, and scores from both "
            f"cannot be compared ({named}): start another study with --study NAME, or restore "
            "what this one was made with."
        )
    return known is not None


def study_reference_seconds(study: Study) -> float | None:
    """What a piece of reference work took where the study was begun."""
    manifest = _stored(study) or {}
    seconds: float | None = manifest.get(_NOTED, {}).get(_REFERENCE)
    return seconds


def _stored(study: Study) -> dict[str, Any] | None:
    attrs = study._storage.get_study_system_attrs(study._study_id)
    manifest: dict[str, Any] | None = attrs.get(MANIFEST_KEY)
    return manifest


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = _flat(old), _flat(new)
    return [
        f"{field}: {_short(before.get(field))} → {_short(after.get(field))}"
        for field in dict.fromkeys((*before, *after))
        if before.get(field) != after.get(field)
    ]


def _flat(manifest: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in manifest.items():
        if not prefix and name == _NOTED:
            continue
        if isinstance(value, dict):
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
