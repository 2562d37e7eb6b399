"""PostgreSQL as the storage of studies: for machines that share no folder."""

import functools
import hashlib
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import URL, event
from sqlalchemy.engine.interfaces import Dialect, ExceptionContext
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from core.cli import without_password
from core.errors import InputError, LostError, one_line, shorten

DRIVER = "postgresql+psycopg"
PATIENCE_S = 60.0  # a database that is started anew is waited for
_POLL_S = 1.0
_OPTIONS: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
# Classes of PostgreSQL's SQLSTATE (its manual, appendix A): broken connections, a standby that is not yet the primary,
# too little disk, memory or connections, and shutting down.
_PASSING = ("08", "25006", "53", "57P0")


def parse_url(url: str) -> URL:
    """A database's URL, with the driver that we use.

    Raises:
        InputError: It is none of PostgreSQL, or the driver isn't installed.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):  # of a port that is no number it says no more than `int`
        parsed = None
    if parsed is not None and "@" in (parsed.host or ""):  # the rest of a password, which would be shown as a host
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql":
        # Others have no locks that end with their owner's connection, and SQLite breaks under several workers.
        raise InputError(
            "`--storage` must be a database of PostgreSQL, postgresql://USER@HOST:PORT/NAME (PORT a number, @ in a "
            f"password as %40), but got --storage {shorten(_shown_unread(url) if parsed is None else shown(url))}. "
            "Leave it out to keep a journal in the folder."
        )
    if importlib.util.find_spec("psycopg") is None:
        raise InputError(
            "`--storage` must have psycopg to speak with PostgreSQL, but it is not installed here. Install it with "
            "`pip install -e .[postgresql]`, on the cluster's machines too."
        )
    return parsed.set(drivername=DRIVER)


def shown(url: str) -> str:
    """A database's URL without its password, for logs and files."""
    return without_password(sqlalchemy.make_url(url).render_as_string(hide_password=True))


def _shown_unread(url: str) -> str:
    """The same of a URL that can't be read, any part of which may be a password."""
    scheme, colon, _ = url.partition(":")
    return f"{scheme}:***" if colon else url


@functools.cache
def open_database(url: str) -> BaseStorage:
    """Opens Optuna's storage in a database, whose tables are made if needed. One for each process.

    Raises:
        InputError: The URL is none of ours, or the database can't be reached.
    """
    with _connected(url, "reached and written to") as connection:
        # Two that make the same tables at once would be in each other's way.
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": lock_key("dermatune tables")})
        storage = RDBStorage(parse_url(url).render_as_string(hide_password=False), engine_kwargs=_OPTIONS.copy())
        if missing := _missing_tables(connection):  # whoever may only read has no right to ask for those that are there
            with storage.engine.begin() as tables:
                for name in missing:
                    tables.execute(sqlalchemy.text(_TABLES[name]))
    _wait_for_it(storage.engine, shown(url))
    return optuna.storages.get_storage(storage)


def read_database(url: str) -> BaseStorage:
    """Opens Optuna's storage in a database that has its tables, and writes nothing.

    Raises:
        InputError: The URL is none of ours, or the database can't be reached or holds no studies.
    """
    with _connected(url, "reached") as connection:
        if not sqlalchemy.inspect(connection).has_table("studies") or _missing_tables(connection):
            raise InputError(
                f"`--storage` must be a database that search.run wrote to, but {shown(url)} holds no studies. Give the "
                "one that it wrote to."
            )
    return open_database(url)


@contextmanager
def _connected(url: str, can: str) -> Iterator[sqlalchemy.Connection]:
    """A connection for once, to find out whether there is a database that can be used so."""
    engine = sqlalchemy.create_engine(parse_url(url), **_OPTIONS)
    try:
        with engine.connect() as connection:
            yield connection
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(
            f"`--storage` must be a database that can be {can}, but {shown(url)} is not ({_reason(error)}). Start it, "
            "or mend the URL."
        ) from error
    finally:
        engine.dispose()


def _missing_tables(connection: sqlalchemy.Connection) -> list[str]:
    """Our tables that the database lacks."""
    there = sqlalchemy.inspect(connection)
    return [name for name in _TABLES if not there.has_table(name)]


def engine_of(url: str) -> sqlalchemy.Engine:
    """The connections of this process to a database that has been opened, or is now."""
    storage: Any = open_database(url)
    engine: sqlalchemy.Engine = storage._backend.engine
    return engine


def lock_key(name: str) -> int:
    """Number of the advisory lock of that name, 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


_TABLES = {
    name: f"CREATE TABLE IF NOT EXISTS {name} (study text, {key}, entry text, seen timestamptz DEFAULT now(), "
    f"PRIMARY KEY (study, {key.split()[0]}))"
    for name, key in (("dermatune_workers", "id text"), ("dermatune_leases", "number integer"))
}


def _wait_for_it(engine: sqlalchemy.Engine, name: str) -> None:
    """From now on, a database that refuses connections is waited for, and one that can't be used is named."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, record: Any, args: Any, parameters: dict[str, Any]) -> Any:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return dialect.connect(*args, **parameters)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > until:
                    raise
            time.sleep(_POLL_S)

    @event.listens_for(engine, "handle_error")
    def name_it(context: ExceptionContext) -> None:
        if context.is_pre_ping:
            return
        if _passes(context.original_exception):
            context.is_disconnect = True  # the next connection may lead to another server
        if context.is_disconnect or context.connection is None:
            raise LostError(
                f"The database must answer and be one that can be written to, but {name} is not now "
                f"({_reason(context.original_exception)}). Start it; the same command continues."
            )


def _passes(error: BaseException) -> bool:
    """Whether the server says that it can't be used as it is now, and not that something is wrong with a statement."""
    return str(getattr(error, "sqlstate", None)).startswith(_PASSING)


def _reason(error: BaseException) -> str:
    """What the server or its driver says, in a line."""
    cause: Any = error
    while (deeper := getattr(cause, "orig", None) or cause.__cause__) is not None:
        cause = deeper
    return shorten(one_line(" ".join(str(cause).split())))
