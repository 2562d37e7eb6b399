"""A real PostgreSQL server for tests, started by them: its own folder, its own port, gone with them."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_TIMEOUT_S = 60


def find_program(name: str) -> str | None:
    """One of the server's programs; Debian keeps them off the path."""
    if found := shutil.which(name):
        return found
    return next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None)


class Server:
    """A running server.

    Attributes:
        url: Of its database, as `--storage` takes it.
    """

    def __init__(self, folder: Path, user: str | None, *, durable: bool) -> None:
        self._folder, self._user, self._durable = folder, user, durable
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://tests@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
        options += f"-c fsync={'on' if self._durable else 'off'}"
        self.control("start", "-w", "-t", str(START_TIMEOUT_S), "-o", options)

    def stop(self) -> None:
        """Stops it at once, as a crash would."""
        self.control("stop", "-m", "immediate")

    def control(self, *words: str) -> None:
        """Runs pg_ctl."""
        run("pg_ctl", "-D", str(self._folder / "data"), "-l", str(self._folder / "log"), *words, user=self._user)


def run(program: str, *words: str, user: str | None) -> None:
    found = find_program(program)
    assert found is not None
    subprocess.run([found, *words], check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)


@contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """A server of its own; the test is skipped where there is no PostgreSQL.

    Args:
        durable: Whether it waits until the disk has what it is told, as any does that isn't for tests.
    """
    if find_program("initdb") is None:
        pytest.skip("no PostgreSQL server on this machine")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="dermatune-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        run("initdb", "-D", str(folder / "data"), "-U", "tests", "-A", "trust", "-N", user=user)
        started = Server(folder, user, durable=durable)
        started.start()
        try:
            yield started
        finally:
            started.stop()
    finally:
        shutil.rmtree(folder)


def wait_until_gone(url: str) -> None:
    """Waits until nothing answers any more."""
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.05)
    raise TimeoutError(url)
