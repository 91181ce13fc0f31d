"""What a trial leaves for people: artifacts, and a note that optuna-dashboard shows."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
import tempfile
from typing import Any
from typing import TYPE_CHECKING

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts import upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.logging import get_logger

from optuna_arrl.frozen_env.prepare import default_cache
from optuna_arrl.trajectory import ARTIFACTS_KEY
from optuna_arrl.trajectory import Outcome
from optuna_arrl.trajectory import REUSED_FROM_KEY


if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.trial import FrozenTrial


__all__ = [
    "CURVE_NAME",
    "DIFF_NAME",
    "LOG_NAME",
    "SOURCE_NAME",
    "artifact_folder",
    "artifact_store_of",
    "artifact_text",
    "curve_csv",
    "diff_path",
    "load_source",
    "note",
    "open_artifact_store",
    "save_artifacts",
    "save_note",
    "storage_file",
]

SOURCE_NAME = "train.py"
DIFF_NAME = "train.diff"
LOG_NAME = "train.log"
CURVE_NAME = "curve.csv"

_logger = get_logger(f"optuna.{__name__}")

# All notes of a study are read whenever one is written or the study's page is opened: a study of
# 1000 trials opens in three seconds with notes of this size, and one chunk of a note holds 2045.
_NOTE_BYTES = 2000
_NOTE_TABLE_BYTES = 800
_NOTE_REASON_BYTES = 300
_NOTE_CELL_BYTES = 60


def artifact_folder(study: Study) -> Path:
    """Return where a study's artifacts lie when nobody chose: beside its database file.

    Returns:
        ``NAME-artifacts`` beside an SQLite or journal file ``NAME.EXT``; for any other storage
        ``artifacts`` in the cache folder of optuna-arrl. Artifact names never clash, so studies
        share it.
    """
    file = storage_file(study)
    if file is None:
        return default_cache() / "artifacts"
    return file.with_name(f"{file.stem}-artifacts")


def storage_file(study: Study) -> Path | None:
    """Return the file that a study is stored in: of SQLite, or a journal. None for others."""
    storage: Any = study._storage
    backend = getattr(storage, "_backend", storage)  # an RDB storage in its cache, or a journal's
    engine = getattr(backend, "engine", None)
    if engine is not None and engine.url.get_backend_name() == "sqlite":
        name = engine.url.database
    else:
        name = getattr(backend, "_file_path", None)
    if not name or name.startswith((":memory:", "file:")):
        return None
    return Path(name).absolute()


def open_artifact_store(study: Study, store: ArtifactStore | None) -> ArtifactStore:
    """Return the store a study writes to, and record its address with the study.

    Args:
        study:
            The study.
        store:
            The user's choice, or :obj:`None` for the recorded folder, else the default one.
    """
    recorded = _recorded(study)
    if store is None:
        folder = _readable_folder(study) or artifact_folder(study)
        store = FileSystemArtifactStore(folder)
        if recorded not in (None, str(folder)) and storage_file(study) is None:
            # Another machine's folder. (Beside a database file, it is our own that has moved.)
            _logger.warning(
                f"Study '{study.study_name}' keeps its artifacts in {recorded}, which is not "
                f"there; this process writes to {folder}. Pass a store that all can reach."
            )
            recorded = str(folder)
    elif isinstance(store, FileSystemArtifactStore):
        folder = Path(store._base_path).absolute()
    else:
        return store  # no folder to record: every process has to be given it
    folder.mkdir(parents=True, exist_ok=True)  # the store does not
    if recorded != str(folder):
        study._storage.set_study_system_attr(study._study_id, ARTIFACTS_KEY, str(folder))
    return store


def artifact_store_of(study: Study) -> ArtifactStore:
    """Return the artifact store of a study that was loaded from its storage alone.

    Raises:
        LookupError:
            The study recorded no folder, or one that this machine does not have.
    """
    folder = _readable_folder(study)
    if folder is not None:
        return FileSystemArtifactStore(folder)
    recorded = _recorded(study)
    if recorded is None:
        raise LookupError(f"Study '{study.study_name}' has recorded no folder of artifacts.")
    raise LookupError(
        f"Study '{study.study_name}' keeps its artifacts in {recorded}, which is not on this "
        "machine: bring that folder here."
    )


def artifact_text(
    study: Study, trial: FrozenTrial, filename: str, *, store: ArtifactStore | None = None
) -> str:
    """Read one artifact of a trial; a trial that reused a score shows the one that ran.

    Args:
        study:
            The study of the trial.
        trial:
            The trial.
        filename:
            ``SOURCE_NAME``, ``DIFF_NAME``, ``LOG_NAME`` or ``CURVE_NAME``.
        store:
            Where to look; :obj:`None` takes :func:`artifact_store_of`.

    Raises:
        LookupError:
            The trial left no such artifact, or it is gone.
    """
    original = trial.user_attrs.get(REUSED_FROM_KEY)
    if original is not None:
        trial = study.get_trials(deepcopy=False)[original]
    store = store or artifact_store_of(study)
    for meta in get_all_artifact_meta(trial, storage=study._storage):
        if meta.filename != filename:
            continue
        try:
            with store.open_reader(meta.artifact_id) as reader:
                return reader.read().decode("utf-8", errors="replace")
        except ArtifactNotFound:
            continue  # Optuna records an artifact before its bytes are there
    raise LookupError(f"Trial {trial.number} of study '{study.study_name}' left no {filename}.")


def load_source(study: Study, trial: FrozenTrial, *, store: ArtifactStore | None = None) -> str:
    """Read the training script that a trial ran, see :func:`artifact_text`."""
    return artifact_text(study, trial, SOURCE_NAME, store=store)


def save_artifacts(trial: Trial, store: ArtifactStore, contents: Mapping[str, bytes]) -> None:
    """Write artifacts of a running trial.

    Args:
        trial:
            The trial.
        store:
            Where to.
        contents:
            File name → content.
    """
    with tempfile.TemporaryDirectory(prefix="arrl-") as folder:
        for name, content in contents.items():
            path = Path(folder) / name
            path.write_bytes(content)
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


def save_note(trial: Trial, text: str) -> None:
    """Save a note where optuna-dashboard looks for it."""
    from optuna_dashboard import save_note  # heavy: brings a web server

    save_note(trial, text)


def note(
    outcome: Outcome,
    *,
    val_bpb: float | None,
    reason: str,
    baseline: float | None,
    best: float | None,
    reused_from: int | None,
    changes: Sequence[tuple[str, Any, Any]],
    diff: str,
) -> str:
    """Write a trial's note as Markdown of at most 2 kB.

    Args:
        outcome:
            How the trial ended.
        val_bpb:
            Its score in bits per byte, when it completed.
        reason:
            Why it did not complete, else empty.
        baseline:
            The unmodified script's score, when known.
        best:
            The best score before this trial, when there is one.
        reused_from:
            Number of the trial that ran this edit.
        changes:
            Slot name, value in the unmodified script, value here.
        diff:
            The whole unified diff; what does not fit is cut between lines.
    """
    head = f"**{outcome.value}**"
    if val_bpb is not None:
        head += f" · val_bpb {val_bpb:.4f}"
        for name, other in (("the baseline", baseline), ("the best before", best)):
            if other is not None:
                head += f" · {val_bpb - other:+.4f} against {name}"
    if reason:
        head += f" · {_inline(reason, _NOTE_REASON_BYTES)}"
    parts = [head]
    if reused_from is not None:
        parts.append(f"The same edit ran as trial {reused_from}; its score is used again.")
    if changes:
        parts.append(_table(changes))
    text = "\n\n".join(parts)
    if not diff:
        return text
    return f"{text}\n\n{_fenced(diff, _NOTE_BYTES - _size(text) - 2)}"


def diff_path(target: Path) -> str:
    """Return the name that diffs give a script, so that ``git apply`` finds it.

    It is the path from the top of the script's repository; outside one, the bare file name.
    """
    target = target.resolve()
    for folder in target.parents:
        if (folder / ".git").exists():
            return target.relative_to(folder).as_posix()
    return target.name


def curve_csv(curve: Sequence[tuple[int, float]]) -> bytes:
    """Write a learning curve (percent of budget, training bits per byte) as CSV."""
    rows = (f"{percent},{bpb:.5f}\n" for percent, bpb in curve)
    return ("percent,train_bpb\n" + "".join(rows)).encode("ascii")


def _table(changes: Sequence[tuple[str, Any, Any]]) -> str:
    rows = ["| slot | baseline | here |", "|---|---|---|"]
    used = 0
    for count, change in enumerate(changes):
        row = "| " + " | ".join(_cell(value) for value in change) + " |"
        used += _size(row) + 1
        if used > _NOTE_TABLE_BYTES:
            rows.append(f"| and {len(changes) - count} more | | |")
            break
        rows.append(row)
    return "\n".join(rows)


def _fenced(diff: str, limit: int) -> str:
    """Put a diff into a code fence, at most ``limit`` bytes together, cut between lines."""
    ticks = "```"
    while ticks in diff:  # a docstring may hold a fence of its own; ours has to be longer
        ticks += "`"
    lines = diff.splitlines()
    room = limit - _size(f"{ticks}diff\n{ticks}")
    if sum(_size(line) + 1 for line in lines) <= room:
        return "\n".join((f"{ticks}diff", *lines, ticks))
    cut = f"\n\nCut here; the whole diff is the artifact {DIFF_NAME}."
    room -= _size(cut)
    kept = []
    for line in lines:
        room -= _size(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join((f"{ticks}diff", *kept, ticks)) + cut


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return _inline(text, _NOTE_CELL_BYTES).replace("|", "\\|")


def _inline(text: str, limit: int) -> str:
    """Put text on one line of at most ``limit`` bytes, without backticks."""
    text = " ".join(text.split()).replace("`", "'")
    if _size(text) <= limit:
        return text
    return text.encode("utf-8")[: limit - 3].decode("utf-8", errors="ignore") + "…"


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


def _recorded(study: Study) -> str | None:
    attrs = study._storage.get_study_system_attrs(study._study_id)
    folder: str | None = attrs.get(ARTIFACTS_KEY)
    return folder


def _readable_folder(study: Study) -> Path | None:
    """Return the recorded folder, or the default one when a database moved with its folder."""
    recorded = _recorded(study)
    candidates = ([Path(recorded)] if recorded else []) + [artifact_folder(study)]
    return next((folder for folder in candidates if folder.is_dir()), None)
