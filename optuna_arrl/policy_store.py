"""Policy versions beside the study: in its SQL database, its artifact folder, or memory.

One row is one policy version: what it was made from, the weights and the optimiser's state bit for
bit, and what the update measured. A version is appended in one transaction and never changes,
except that old ones lose their weights. Optuna's own tables are never touched: deleting a study
leaves its versions behind, under a key that no later study can have (see :func:`study_key`).
"""

from __future__ import annotations

from abc import ABC
from abc import abstractmethod
import contextlib
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
import datetime
import functools
import hashlib
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any
from typing import TYPE_CHECKING
from typing import TypeVar

from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from optuna_arrl.trajectory import ARTIFACTS_KEY
from optuna_arrl.trajectory import from_ranges
from optuna_arrl.trajectory import to_ranges


if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage
    from optuna.study import Study
    import sqlalchemy


__all__ = [
    "FolderPolicyStore",
    "MemoryPolicyStore",
    "PolicyDamaged",
    "PolicyStore",
    "PolicyVersion",
    "SqlPolicyStore",
    "open_policy_store",
    "study_key",
]

KEPT_WHOLE = 5
"""So many of the latest versions keep their weights. Version 0 keeps them for ever: it is the
reference that the KL penalty of every later update refers to."""

MAX_BYTES = 2**24
"""Weights and optimiser state of one version, together, are at most 16 MiB."""

# A column that may hold 2**24 bytes is a LONGBLOB in MySQL, whose plain BLOB ends at 64 kB.
_BLOB_LENGTH = 2**24
_TABLE = "arrl_policy_versions"
# SQLite lets one process write at a time; its own wait is 5 s, after which it says "locked".
_LOCKED_ATTEMPTS = 6
_LOCKED_WAIT_SECONDS = 0.05

_T = TypeVar("_T")


class PolicyDamaged(Exception):
    """The stored weights are not those that were written (their hash differs)."""


@dataclass(frozen=True, kw_only=True)
class PolicyVersion:
    """One version of the policy.

    Attributes:
        version:
            0 for the policy the study began with, then 1, 2, … without gaps.
        parent:
            The version it was made from; None for version 0.
        sha256:
            Hash of the weights, hex. It outlives the weights.
        weights:
            The weights as safetensors bytes; None when they were dropped.
        optimiser:
            The optimiser's state as safetensors bytes; None when dropped or before any update.
        rng:
            What the update drew its randomness from, as JSON.
        consumed:
            Numbers of the trials this version took in, sorted. No other version has them.
        statistics:
            What the update measured, JSON values only.
        created:
            Unix time in seconds.
    """

    version: int
    parent: int | None
    sha256: str
    weights: bytes | None
    optimiser: bytes | None
    rng: str
    consumed: tuple[int, ...]
    statistics: dict[str, Any]
    created: float


class PolicyStore(ABC):
    """Versions of one study's policy. Objects hold no connection and no lock: they pickle."""

    @abstractmethod
    def newest(self) -> int | None:
        """Return the highest version, or None where there is none."""

    @abstractmethod
    def load(self, version: int) -> PolicyVersion:
        """Return one version with its weights, checked against their hash.

        Raises:
            KeyError:
                When there is no such version, or it was dropped.
            PolicyDamaged:
                When the weights are not those that were written.
        """

    @abstractmethod
    def records(self) -> list[PolicyVersion]:
        """Return every version in order, without weights and optimiser state."""

    @abstractmethod
    def append(self, policy: PolicyVersion) -> bool:
        """Add a version and drop the weights of those no longer kept whole.

        Returns:
            False when another worker has added this version before; then nothing was changed.

        Raises:
            ValueError:
                When weights and optimiser state are larger than 16 MiB together.
        """


def study_key(study: Study) -> str | None:
    """Return an id that all workers of a study agree on and that no other study has.

    It is the hash of the study's name and id with the storage id and the start of trial 0. Trial
    numbering is atomic, so workers that start together read the same trial 0; SQLite gives the ids
    of a deleted study away again, but not the moment at which its first trial began. (An attribute
    of the study could not do this: the last writer wins, and there is no telling who was first.)

    Returns:
        64 hex digits; None as long as no trial has started.
    """
    storage, study_id = study._storage, study._study_id
    try:
        first = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, 0))
    except KeyError:
        return None
    if first.state == TrialState.WAITING:
        return None
    started = ""
    if first.datetime_start is not None:
        # Optuna stores UTC and shows local time: workers in two time zones see two datetimes.
        started = first.datetime_start.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    identity = [study.study_name, study_id, first._trial_id, started]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def open_policy_store(study: Study, key: str) -> PolicyStore:
    """Return where a study's policy versions live.

    Args:
        study:
            The study.
        key:
            Its :func:`study_key`.

    Returns:
        A table in the study's own database where that is an SQL database; else a folder in the
        artifact folder that the study records; else memory.
    """
    storage = study._storage
    if _sql_backend(storage) is not None:
        return SqlPolicyStore(storage, study._study_id, key)
    if not isinstance(storage, InMemoryStorage):
        folder = storage.get_study_system_attrs(study._study_id).get(ARTIFACTS_KEY)
        if isinstance(folder, str):
            return FolderPolicyStore(Path(folder) / "policy" / key)
    return MemoryPolicyStore()


class MemoryPolicyStore(PolicyStore):
    """Versions kept in this process: they end with it."""

    def __init__(self) -> None:
        self._versions: list[PolicyVersion] = []

    def newest(self) -> int | None:
        return len(self._versions) - 1 if self._versions else None

    def load(self, version: int) -> PolicyVersion:
        if not 0 <= version < len(self._versions):
            raise KeyError(version)
        return _checked(self._versions[version])

    def records(self) -> list[PolicyVersion]:
        return [_without_weights(policy) for policy in self._versions]

    def append(self, policy: PolicyVersion) -> bool:
        _check_size(policy)
        if policy.version != len(self._versions):
            return False
        self._versions.append(policy)
        dropped = policy.version - KEPT_WHOLE
        if dropped > 0:
            self._versions[dropped] = _without_weights(self._versions[dropped])
        return True


class FolderPolicyStore(PolicyStore):
    """One safetensors file a version, in a folder that all workers share.

    A file appears whole or not at all (it is written elsewhere and linked in), and a link that
    exists already is what tells the loser of a race.

    Args:
        folder:
            The folder of one study; made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self) -> int | None:
        return max(self._numbers(), default=None)

    def load(self, version: int) -> PolicyVersion:
        from safetensors import safe_open

        path = self._path(version)
        if not path.exists():
            raise KeyError(version)
        with safe_open(path, framework="numpy") as file:
            policy = _from_header(file.metadata())
            blobs = {name: file.get_tensor(name).tobytes() for name in file.keys()}
        return _checked(
            replace(policy, weights=blobs.get("weights"), optimiser=blobs.get("optimiser"))
        )

    def records(self) -> list[PolicyVersion]:
        from safetensors import safe_open

        found = []
        for version in sorted(self._numbers()):
            with safe_open(self._path(version), framework="numpy") as file:
                found.append(_from_header(file.metadata()))
        return found

    def append(self, policy: PolicyVersion) -> bool:
        _check_size(policy)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._written(policy) as temporary:
            try:
                os.link(temporary, self._path(policy.version))
            except FileExistsError:
                return False
        dropped = policy.version - KEPT_WHOLE
        if dropped > 0 and self._path(dropped).exists():
            with self._written(_without_weights(self.load(dropped))) as temporary:
                os.replace(temporary, self._path(dropped))
        return True

    @contextlib.contextmanager
    def _written(self, policy: PolicyVersion) -> Any:
        import numpy as np
        from safetensors.numpy import save

        blobs = {"weights": policy.weights, "optimiser": policy.optimiser}
        tensors = {
            name: np.frombuffer(blob, dtype=np.uint8)
            for name, blob in blobs.items()
            if blob is not None
        }
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(save(tensors, metadata=_to_header(policy)))
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            # After a successful replace there is nothing left to remove.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _path(self, version: int) -> Path:
        return self._folder / f"version-{version:06d}.safetensors"

    def _numbers(self) -> list[int]:
        return [
            int(path.stem.removeprefix("version-"))
            for path in self._folder.glob("version-*.safetensors")
        ]


class SqlPolicyStore(PolicyStore):
    """One row a version, in a table of the study's own database.

    Args:
        storage:
            The study's storage; its engine is used, so credentials, pooling and timeouts are
            those the user chose.
        study_id:
            The study's id, only to clear away rows of a deleted study that had the same id.
        key:
            The study's :func:`study_key`.
    """

    def __init__(self, storage: BaseStorage, study_id: int, key: str) -> None:
        self._storage = storage
        self._study_id = study_id
        self._key = key
        self._table_exists = False

    def newest(self) -> int | None:
        import sqlalchemy

        table = self._table()
        query = sqlalchemy.select(sqlalchemy.func.max(table.c.version)).where(
            table.c.study_key == self._key
        )
        with self._engine().connect() as connection:
            number = connection.execute(query).scalar()
        return None if number is None else int(number)

    def load(self, version: int) -> PolicyVersion:
        import sqlalchemy

        table = self._table()
        query = sqlalchemy.select(table).where(
            table.c.study_key == self._key, table.c.version == version
        )
        with self._engine().connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise KeyError(version)
        return _checked(
            replace(_from_row(row), weights=row["weights"], optimiser=row["optimiser"])
        )

    def records(self) -> list[PolicyVersion]:
        import sqlalchemy

        table = self._table()
        light = [column for column in table.c if column.name not in ("weights", "optimiser")]
        query = (
            sqlalchemy.select(*light)
            .where(table.c.study_key == self._key)
            .order_by(table.c.version)
        )
        with self._engine().connect() as connection:
            return [_from_row(row) for row in connection.execute(query).mappings()]

    def append(self, policy: PolicyVersion) -> bool:
        import sqlalchemy.exc

        _check_size(policy)
        table = self._table()
        row = {
            "study_key": self._key,
            "study_id": self._study_id,
            "version": policy.version,
            "parent": policy.parent,
            "sha256": policy.sha256,
            "weights": policy.weights,
            "optimiser": policy.optimiser,
            "rng": policy.rng,
            "consumed": json.dumps(to_ranges(policy.consumed)),
            "statistics": json.dumps(policy.statistics),
            "created": policy.created,
        }
        older = table.update().where(
            table.c.study_key == self._key,
            table.c.version > 0,
            table.c.version <= policy.version - KEPT_WHOLE,
            table.c.weights.is_not(None),
        )
        orphans = table.delete().where(
            table.c.study_id == self._study_id, table.c.study_key != self._key
        )

        def write() -> bool:
            # The insert comes first: it takes SQLite's write lock at once, so that the transaction
            # cannot fail half way for having read before it wrote.
            with self._engine().begin() as connection:
                connection.execute(table.insert().values(**row))
                connection.execute(older.values(weights=None, optimiser=None))
                if policy.version == 0:
                    connection.execute(orphans)
            return True

        try:
            return _patiently(write)
        except sqlalchemy.exc.IntegrityError:
            return False

    def _engine(self) -> sqlalchemy.Engine:
        backend = _sql_backend(self._storage)
        assert backend is not None  # holds since `open_policy_store` chose this class
        engine: sqlalchemy.Engine = backend.engine
        return engine

    def _table(self) -> sqlalchemy.Table:
        import sqlalchemy.exc

        table = _definition()
        if not self._table_exists:
            try:
                _patiently(lambda: table.metadata.create_all(self._engine(), checkfirst=True))
            except sqlalchemy.exc.SQLAlchemyError:
                # Another worker made it between the look and the making.
                if not sqlalchemy.inspect(self._engine()).has_table(_TABLE):
                    raise
            self._table_exists = True
        return table


@functools.cache
def _definition() -> sqlalchemy.Table:
    """Return the table, under metadata of its own: Optuna's never hears of it."""
    import sqlalchemy as sa

    return sa.Table(
        _TABLE,
        sa.MetaData(),
        sa.Column("row_id", sa.Integer, primary_key=True),
        sa.Column("study_key", sa.String(64), nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("weights", sa.LargeBinary(length=_BLOB_LENGTH)),
        sa.Column("optimiser", sa.LargeBinary(length=_BLOB_LENGTH)),
        sa.Column("rng", sa.Text, nullable=False),
        sa.Column("consumed", sa.Text, nullable=False),
        sa.Column("statistics", sa.Text, nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.UniqueConstraint("study_key", "version"),
    )


def _sql_backend(storage: BaseStorage) -> Any:
    """Return the RDBStorage inside a storage (Optuna wraps it in a cache), or None."""
    backend = getattr(storage, "_backend", storage)
    # By attribute, not by class: importing RDBStorage imports SQLAlchemy for everyone.
    return backend if hasattr(backend, "engine") and hasattr(backend, "scoped_session") else None


def _patiently(write: Callable[[], _T]) -> _T:
    """Run a short transaction again while SQLite says that another process holds the file."""
    import sqlalchemy.exc

    for attempt in range(_LOCKED_ATTEMPTS):
        try:
            return write()
        except sqlalchemy.exc.OperationalError as error:
            if "locked" not in str(error) or attempt == _LOCKED_ATTEMPTS - 1:
                raise
            time.sleep(_LOCKED_WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _checked(policy: PolicyVersion) -> PolicyVersion:
    if policy.weights is None:
        raise KeyError(policy.version)
    found = hashlib.sha256(policy.weights).hexdigest()
    if found != policy.sha256:
        raise PolicyDamaged(
            f"Policy version {policy.version} is damaged: its weights hash to {found[:12]}…, "
            f"{policy.sha256[:12]}… was stored. Restore the storage from a copy of it, or begin a "
            "new study."
        )
    return policy


def _check_size(policy: PolicyVersion) -> None:
    size = len(policy.weights or b"") + len(policy.optimiser or b"")
    if size > MAX_BYTES:
        raise ValueError(
            f"Policy version {policy.version} has {size} bytes of weights and optimiser state; "
            f"at most {MAX_BYTES} can be stored."
        )


def _without_weights(policy: PolicyVersion) -> PolicyVersion:
    return replace(policy, weights=None, optimiser=None)


def _to_header(policy: PolicyVersion) -> dict[str, str]:
    fields = asdict(_without_weights(policy))
    fields["consumed"] = to_ranges(policy.consumed)
    return {"policy": json.dumps(fields)}


def _from_header(header: dict[str, str]) -> PolicyVersion:
    fields = json.loads(header["policy"])
    fields["consumed"] = from_ranges(fields["consumed"])
    return PolicyVersion(**fields)


def _from_row(row: Any) -> PolicyVersion:
    return PolicyVersion(
        version=row["version"],
        parent=row["parent"],
        sha256=row["sha256"],
        weights=None,
        optimiser=None,
        rng=row["rng"],
        consumed=from_ranges(json.loads(row["consumed"])),
        statistics=json.loads(row["statistics"]),
        created=row["created"],
    )
