"""What the commands share: the storage options, and opening a study in one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from contextlib import contextmanager
from pathlib import Path
import shlex
from typing import Any
from typing import TYPE_CHECKING
from typing import TypeVar

import click


if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study


DEFAULT_STORAGE = "sqlite:///arrl.db"
_JOURNAL_SUFFIXES = (".log", ".journal")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class BadInput(click.ClickException):
    """What the user gave cannot be used; shown as one sentence, exit code 2."""

    exit_code = 2


class NoStorage(BadInput):
    """The file of a storage is not there yet."""

    def __init__(self, url: str, path: Path) -> None:
        super().__init__(f"There is no storage {url} yet: start a study with `arrl run`.")
        self.path = path


@contextmanager
def bad_input(*errors: type[Exception]) -> Iterator[None]:
    """Turn exceptions that speak of the user's input into :class:`BadInput`.

    Name only exceptions whose message is a sentence for the user: any other is a bug, and a bug
    keeps its traceback.
    """
    try:
        yield
    except errors as error:
        raise BadInput(str(error)) from error


def study_options(command: _Command) -> _Command:
    """Add ``--storage`` and ``--study``, the same for every command that reads a study."""
    command = click.option(
        "--study",
        "study_name",
        metavar="NAME",
        callback=_not_empty,
        help="Name of the study; not needed while the storage holds one only.",
    )(command)
    return click.option(
        "--storage",
        "storage_url",
        metavar="URL",
        default=DEFAULT_STORAGE,
        callback=_not_empty,
        show_default=True,
        help="Where studies live: a database URL, or a journal file (NAME.log).",
    )(command)


def _not_empty(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise BadInput(f"{parameter.opts[0]} is empty: give it a value, or leave it out.")
    return value


def open_storage(url: str, *, create: bool) -> BaseStorage:
    """Open a storage.

    Args:
        url:
            Database URL, or the path of a journal file.
        create:
            Whether a database that is not there may be made. A command that only reads must not
            leave an empty file behind.

    Raises:
        BadInput:
            When it cannot be opened.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    import sqlalchemy.engine
    import sqlalchemy.exc

    if "://" not in url:
        if not url.endswith(_JOURNAL_SUFFIXES):
            raise BadInput(
                f"'{url}' is not a storage URL: write sqlite:///{url}, or name a journal file "
                f"that ends in {' or '.join(_JOURNAL_SUFFIXES)}."
            )
        _check_file(url, Path(url), create=create)
        with _opening(url, OSError, ValueError, KeyError):  # the last two: not its lines of JSON
            _check_journal(Path(url))
            return optuna.storages.JournalStorage(JournalFileBackend(url))

    with _opening(
        url,
        ImportError,  # no driver for this kind of database
        RuntimeError,  # made by an incompatible version of Optuna
        ValueError,  # a kind of storage that Optuna no longer has
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.OptunaError,
    ):
        parsed = sqlalchemy.engine.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise BadInput(
                    f"{url} is lost when this command ends: name a file, as in {DEFAULT_STORAGE}."
                )
            _check_file(url, Path(parsed.database), create=create)
        return optuna.storages.get_storage(url)


def find_storage(url: str) -> BaseStorage | None:
    """Open a storage if it is there, and make nothing.

    Returns:
        The storage; :obj:`None` where its file is yet to be made, and can be by its name.

    Raises:
        BadInput:
            When it cannot be opened, or could not be made.
    """
    try:
        return open_storage(url, create=False)
    except NoStorage as missing:
        _check_file(url, missing.path, create=True)
        return None


@contextmanager
def _opening(url: str, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise BadInput(f"The storage {shown_url(url)} cannot be opened: {reason}.") from error


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of all studies in a storage."""
    return [study.study_name for study in storage.get_all_studies()]


def open_study(url: str, name: str | None) -> Study:
    """Open a study that is there; without a name, the only one.

    Raises:
        BadInput:
            When there is none, no such one, or more than one to choose from.
    """
    import optuna

    storage = open_storage(url, create=False)
    names = study_names(storage)
    if not names:
        raise BadInput(f"{shown_url(url)} holds no study yet: start one with `arrl run`.")
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    if name is None:
        if len(names) > 1:
            raise BadInput(
                f"{shown_url(url)} holds {len(names)} studies: choose one with --study ({listed})."
            )
        name = names[0]
    elif name not in names:
        raise BadInput(f"{shown_url(url)} has no study '{name}', only: {listed}.")
    return optuna.load_study(study_name=name, storage=storage)


def shown_url(url: str) -> str:
    """Return a storage URL as it may be printed: without its password."""
    import sqlalchemy.engine
    import sqlalchemy.exc

    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def command_line(command: str, url: str, study: Study) -> str:
    """Return the command line by which a user asks ``command`` about a study."""
    words = ["arrl", *command.split()]
    if url != DEFAULT_STORAGE:
        words += ["--storage", shown_url(url)]
    if len(study_names(study._storage)) > 1:
        words += ["--study", study.study_name]
    return shlex.join(words)


def _check_journal(path: Path) -> None:
    """Refuse a file that is no journal: Optuna would append to any file that ends in a line."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if file.read(1) not in (b"", b"{"):
            raise ValueError("it is not a journal of Optuna")


def _check_file(url: str, path: Path, *, create: bool) -> None:
    if create:
        if not path.absolute().parent.is_dir():
            raise BadInput(f"The storage {url} cannot be made: {path.parent} is not a folder.")
    elif not path.is_file():
        raise NoStorage(url, path)
