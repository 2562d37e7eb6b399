"""Leases and workers of a study as rows of a PostgreSQL database, for machines that share no folder."""

import dataclasses
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from core.cache import cache_folder
from core.errors import LostError
from search.database import engine_of, lock_key
from search.leases import GRACE_S, Lease, Leases, Worker, this_machine
from search.lives import Lives

_WORKER_ID = re.compile(r"[0-9a-f]{16}")
_TIMED_OUT = "55P03"  # what PostgreSQL says when a lock can't be had in time
_LOST = (SQLAlchemyError, LostError)
_SLICES_IN_GRACE = 12
_HOLDER = """
    SELECT pid, state_change FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) | objid::bigint = :key
"""

_log = logging.getLogger(__name__)


class DatabaseLeases(Leases):
    """Rows beside Optuna's. The study's lock is an advisory lock, which the server frees with its holder's connection.

    Args:
        url: Of the database.
        study: Name of the study.
        grace_s: How long the holder of the study's lock may stand still before its connection is ended. All that is
            done under it takes milliseconds.
    """

    def __init__(self, url: str, study: str, *, grace_s: float = GRACE_S) -> None:
        # Each statement stands for itself, as each file would.
        self._engine = engine_of(url).execution_options(isolation_level="AUTOCOMMIT")
        self._study, self._grace_s = study, grace_s
        self._key = lock_key(f"dermatune study {study}")
        self._mutex = threading.RLock()
        self._holding: Connection | None = None
        folder = cache_folder("workers")
        folder.mkdir(parents=True, exist_ok=True)
        self._lives = Lives(folder)
        # Containers of one system need not share that folder.
        place = folder.stat()
        self._machine = f"{this_machine()}/{place.st_dev}:{place.st_ino}"

    @property
    def machine(self) -> str:
        return self._machine

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._mutex:
            if self._holding is not None:  # by this thread, further out
                yield
                return
            with self._engine.connect() as connection:
                self._acquire(connection)
                self._holding = connection
                try:
                    yield
                finally:
                    self._holding = None
                    self._release(connection)

    def holds_lock(self) -> bool:
        if self._holding is None:
            return False
        try:
            mine = self._holding.execute(text(f"{_HOLDER} AND pid = pg_backend_pid()"), {"key": self._key})
            return mine.first() is not None
        except _LOST:  # its connection was ended, and the lock with it
            return False

    def _acquire(self, connection: Connection) -> None:
        """Waits for the lock; ends the connection of a holder that was stopped while it had it.

        Time in which this process was stopped itself doesn't count: its holder may have been stopped with it.
        """
        slice_s = self._grace_s / _SLICES_IN_GRACE
        connection.execute(text(f"SET lock_timeout = {max(1, round(slice_s * 1000))}"))
        seen, stood_s = self._holder(connection), 0.0
        while True:
            begun = time.monotonic()
            try:
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": self._key})
                return
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != _TIMED_OUT:
                    raise
            if (holder := self._holder(connection)) != seen:
                seen, stood_s = holder, 0.0
                continue
            stood_s += min(time.monotonic() - begun, 2 * slice_s)
            if holder is not None and stood_s >= self._grace_s:
                _log.warning("the study's lock stood still for %.0f s and is taken from its holder", self._grace_s)
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": holder.pid})
                stood_s = 0.0

    def _holder(self, connection: Connection) -> Row[Any] | None:
        """The server's process that has the lock for its client, and when that last said something."""
        return connection.execute(text(_HOLDER), {"key": self._key}).first()

    def _release(self, connection: Connection) -> None:
        try:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            connection.execute(text("RESET lock_timeout"))
        except _LOST:
            connection.invalidate()  # it was ended, and the lock with it

    def enlist(self, worker: Worker) -> None:
        self._lives.begin(worker.id)
        self._put("dermatune_workers", "id", worker.id, worker)

    def beat(self, worker: Worker) -> None:
        self._lives.go_on(worker.id)
        self._put("dermatune_workers", "id", worker.id, worker)

    def leave(self, worker: Worker) -> None:
        self._run("DELETE FROM dermatune_workers WHERE study = :study AND id = :id", id=worker.id)
        self._lives.end(worker.id)

    def read_workers(self) -> dict[str, Worker]:
        rows = self._run("SELECT entry FROM dermatune_workers WHERE study = :study")
        workers = [Worker(**json.loads(entry)) for (entry,) in rows]
        # A name leads to files.
        return {worker.id: worker for worker in workers if _WORKER_ID.fullmatch(worker.id)}

    def read_worker(self, worker: str) -> Worker | None:
        return self.read_workers().get(worker)

    def has_ended(self, worker: Worker) -> bool:
        return self._lives.has_ended(worker.id)

    def silent_s(self, worker: Worker) -> float:
        query = "SELECT extract(epoch FROM now() - seen) FROM dermatune_workers WHERE study = :study AND id = :id"
        return next((float(seconds) for (seconds,) in self._run(query, id=worker.id)), 0.0)

    def leased(self) -> list[int]:
        rows = self._run("SELECT number FROM dermatune_leases WHERE study = :study")
        return [number for (number,) in rows]

    def read_leases(self) -> dict[int, Lease]:
        rows = self._run("SELECT number, entry FROM dermatune_leases WHERE study = :study")
        return {number: Lease(**json.loads(entry)) for number, entry in rows}

    def read(self, number: int) -> Lease | None:
        query = "SELECT entry FROM dermatune_leases WHERE study = :study AND number = :number"
        return next((Lease(**json.loads(entry)) for (entry,) in self._run(query, number=number)), None)

    def write(self, number: int, lease: Lease) -> None:
        self._put("dermatune_leases", "number", number, lease)

    def remove(self, number: int) -> None:
        self._run("DELETE FROM dermatune_leases WHERE study = :study AND number = :number", number=number)

    def _put(self, table: str, column: str, key: str | int, entry: Worker | Lease) -> None:
        self._run(
            f"INSERT INTO {table} (study, {column}, entry) VALUES (:study, :key, :entry) "
            f"ON CONFLICT (study, {column}) DO UPDATE SET entry = :entry, seen = now()",
            key=key,
            entry=json.dumps(dataclasses.asdict(entry)),
        )

    def _run(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Runs a statement; returns its rows, if it has any."""
        with self._engine.connect() as connection:
            result = connection.execute(text(statement), {"study": self._study, **values})
            return [tuple(row) for row in result] if result.returns_rows else []
