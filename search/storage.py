"""Optuna's storage of all studies, and who runs which trial: files of the studies folder, or a database."""

import logging
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from core.artifacts import StudiesFolder, StudyFolder
from core.errors import InputError, shorten
from search.file_leases import FileLeases
from search.leases import GRACE_S, Leases

METRIC = "validation macro recall"
_GRACE_S = 30  # of the journal's lock; Optuna's own default
_SHORTEST_GRACE_S = 3  # below, Optuna warns

_log = logging.getLogger(__name__)


class _MendingLock(JournalFileOpenLock):
    """Optuna's lock on the journal, which mends the journal's tail whenever it is taken.

    A process that dies while it appends leaves half a line. Optuna appends behind it all the same, and from then on
    every load fails. Under this lock nobody else is writing, so a last line without its end is such a half.
    """

    def __init__(self, journal_file: Path, *, grace_s: float) -> None:
        # Below the grace of the study's lock, so that nobody loses that one while waiting for this one.
        super().__init__(str(journal_file), grace_period=max(_SHORTEST_GRACE_S, min(_GRACE_S, round(grace_s / 2))))
        self._journal_file = journal_file
        self._mine: tuple[int, int] | None = None

    def acquire(self) -> bool:
        self._mine = None
        taken = super().acquire()
        self._mine = self._identity()
        try:
            mend_tail(self._journal_file)
        except BaseException:
            self.release()
            raise
        return taken

    def release(self) -> None:
        # Optuna releases in the name of a holder that stood still, too.
        if self._mine is not None and self._identity() != self._mine:
            _log.warning("the lock of %s was taken from this process while it stood still", self._journal_file)
            return
        super().release()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._lock_file)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


class _Journal(JournalFileBackend):
    """Optuna's journal, which says where it lies when its disk is full."""

    def __init__(self, file: Path, *, grace_s: float) -> None:
        # Not Optuna's default lock, a symbolic link: Windows and some network mounts have none.
        self._lock = _MendingLock(file, grace_s=grace_s)
        super().__init__(str(file), lock_obj=self._lock)
        self._file = file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = str(self._file)
            with suppress(OSError):  # the dashboard would append to half a line, and doesn't mend
                self._lock.acquire()
                self._lock.release()
            raise


def mend_tail(journal_file: Path) -> None:
    """Cuts off a last line that was never finished. Nothing before it is touched."""
    with journal_file.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 4096)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            keep = start + newline + 1
            if newline >= 0:
                break
        if keep < end:
            file.truncate(keep)
            _log.warning("cut %d bytes of a line that was never finished off %s", end - keep, journal_file)


def open_storage(studies: StudiesFolder, database: str = "", *, grace_s: float = GRACE_S) -> BaseStorage:
    """Opens the journal of a studies folder, or a database. The folder is made if needed.

    Args:
        studies: Where trials lie.
        database: URL of a database; empty for the journal.
        grace_s: How long the holder of a study's lock may stand still.

    Raises:
        InputError: The folder cannot be made or written to, the journal is damaged before its last line, or the
            database can't be reached.
    """
    try:
        studies.root.mkdir(parents=True, exist_ok=True)
        if not database:
            studies.journal_file.touch()
    except OSError as error:
        raise InputError(
            f"`--studies` must be a folder that can be written to, but {studies.root} is not ({error.strerror}). "
            "Choose another."
        ) from error
    if database:
        return _open_database(database)
    lock = _MendingLock(studies.journal_file, grace_s=grace_s)
    lock.acquire()
    lock.release()
    return _open_journal(studies, grace_s)


def _open_database(url: str) -> BaseStorage:
    from search.database import open_database  # sqlalchemy takes a moment to import, and the journal needs none

    return open_database(url)


def open_leases(folder: StudyFolder, database: str = "", *, grace_s: float = GRACE_S) -> Leases:
    """Who runs which trial of a study; in the same place as Optuna's storage.

    Args:
        folder: The study.
        database: URL of a database; empty for files in the folder.
        grace_s: How long the holder of the study's lock may stand still.
    """
    if database:
        from search.database_leases import DatabaseLeases

        return DatabaseLeases(database, folder.name, grace_s=grace_s)
    return FileLeases(folder, grace_s=grace_s)


def dashboard_storage(studies: StudiesFolder, database: str = "") -> str:
    """What the dashboard is told to read; without a password, which it finds where we found it."""
    if database:
        from search.database import parse_url

        url = parse_url(database).set(password=None)
        return url.difference_update_query([name for name in url.query if name.endswith("password")]).render_as_string()
    return str(studies.journal_file)


def _open_journal(studies: StudiesFolder, grace_s: float = GRACE_S) -> JournalStorage:
    try:
        return JournalStorage(_Journal(studies.journal_file, grace_s=grace_s))
    # Optuna takes every line of JSON for one of its own.
    except (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"{studies.journal_file} must be a journal of Optuna, but is damaged ({type(error).__name__}: "
            f"{shorten(str(error))}). Restore it from a copy, or use another folder with --studies."
        ) from error


def read_storage(studies: StudiesFolder, database: str = "") -> BaseStorage:
    """Opens the storage of a studies folder to read what it says now; nobody is waited for.

    Args:
        studies: Where trials lie.
        database: URL of a database; empty for the journal.

    Raises:
        InputError: There is no journal, it is damaged, or the database can't be reached or holds no studies.
    """
    if database:
        from search.database import read_database  # imported late, as above

        return read_database(database)
    if not studies.journal_file.is_file():
        raise InputError(
            f"`studies` must be a folder that search.run wrote to, but {studies.place} has no journal.log. "
            "Give the one that it wrote to, and its --storage if it had one."
        )
    return _open_journal(studies)


def find_study(storage: BaseStorage, name: str) -> optuna.Study | None:
    """A study, if there is one of that name."""
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        return None


def open_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Opens a study, or starts it; the recall is to be maximised."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would repeat ours
    study = find_study(storage, name)
    if study is None:  # asking to create one that exists would leave an entry in the journal each time
        study = optuna.create_study(
            storage=storage, study_name=name, direction=StudyDirection.MAXIMIZE, load_if_exists=True
        )
    if study.metric_names is None:
        with warnings.catch_warnings():
            # Experimental since 3.2, and the only way to a named axis in the dashboard.
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([METRIC])
    return study
