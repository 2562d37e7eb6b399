"""Optuna's storage of all studies."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from core.artifacts import StudiesFolder
from core.errors import InputError, shorten

METRIC = "validation macro recall"

_log = logging.getLogger(__name__)


class _MendingLock(JournalFileOpenLock):
    """Optuna's lock on the journal, which mends the journal's tail whenever it is taken.

    A process that dies while it appends leaves half a line. Optuna appends behind it all the same, and from then on
    every load fails. Under this lock nobody else is writing, so a last line without its end is such a half.
    """

    def __init__(self, journal_file: Path) -> None:
        super().__init__(str(journal_file))
        self._journal_file = journal_file

    def acquire(self) -> bool:
        taken = super().acquire()
        mend_tail(self._journal_file)
        return taken


class _Journal(JournalFileBackend):
    """Optuna's journal, which says where it lies when its disk is full."""

    def __init__(self, file: Path) -> None:
        # Not Optuna's default lock, a symbolic link: Windows and some network mounts have none.
        super().__init__(str(file), lock_obj=_MendingLock(file))
        self._file = file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = str(self._file)
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


def open_storage(studies: StudiesFolder) -> JournalStorage:
    """Opens the journal of a studies folder, which is made if needed.

    Raises:
        InputError: The folder cannot be made or written to, or the journal is damaged before its last line.
    """
    try:
        studies.root.mkdir(parents=True, exist_ok=True)
        studies.journal_file.touch()
    except OSError as error:
        raise InputError(
            f"`--studies` must be a folder that can be written to, but {studies.root} is not ({error.strerror}). "
            "Choose another."
        ) from error
    lock = _MendingLock(studies.journal_file)
    lock.acquire()
    lock.release()
    return _open_journal(studies)


def _open_journal(studies: StudiesFolder) -> JournalStorage:
    try:
        return JournalStorage(_Journal(studies.journal_file))
    # Optuna takes every line of JSON for one of its own.
    except (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"{studies.journal_file} must be a journal of Optuna, but is damaged ({type(error).__name__}: "
            f"{shorten(str(error))}). Restore it from a copy, or use another folder with --studies."
        ) from error


def read_storage(studies: StudiesFolder) -> JournalStorage:
    """Opens the journal of a studies folder to read what it says now; nothing is written and nobody is waited for.

    Raises:
        InputError: There is no journal, or it is damaged.
    """
    if not studies.journal_file.is_file():
        raise InputError(
            f"`studies` must be a folder that search.run wrote to, but {studies.root} has no journal.log. "
            "Give the one that it wrote to."
        )
    return _open_journal(studies)


def open_study(storage: JournalStorage, name: str) -> optuna.Study:
    """Opens a study, or starts it; the recall is to be maximised."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would repeat ours
    try:  # first, as asking to create one that exists leaves an entry in the journal each time
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        study = optuna.create_study(
            storage=storage, study_name=name, direction=StudyDirection.MAXIMIZE, load_if_exists=True
        )
    if study.metric_names is None:
        with warnings.catch_warnings():
            # Experimental since 3.2, and the only way to a named axis in the dashboard.
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([METRIC])
    return study
