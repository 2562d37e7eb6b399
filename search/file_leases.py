"""Leases and workers of a study as files in its folder, which all machines that take part share."""

import dataclasses
import errno
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import filelock

from core.artifacts import StudyFolder
from core.errors import InputError
from core.files import read_json, write_json
from core.shapes import NUMBER, find_misfit
from search.leases import GRACE_S, Lease, Leases, Worker, this_machine
from search.lives import Lives

_LOCK_POLL_S = 0.01
_SLICES_IN_GRACE = 12
_STALE_READS = 5  # of a file that is renamed over while it is read, which NFS may refuse
_LEASE: dict[str, Any] = {"generation": int, "worker": str, "since": str, "epochs": int, "deaths": int}
_WORKER: dict[str, Any] = {"id": str, "host": str, "pid": int, "machine": str, "device": str, "since": str}
_WORKER |= {"parent": str, "goal": int, "counter": int, "beat_s": NUMBER}

_Entry = TypeVar("_Entry", Worker, Lease)

_log = logging.getLogger(__name__)


class FileLeases(Leases):
    """Files in a study's folder, which all machines that take part share.

    Args:
        folder: The study.
        grace_s: How long the holder of the study's lock may stand still before the lock is taken from it. All that is
            done under it takes milliseconds.
    """

    def __init__(self, folder: StudyFolder, *, grace_s: float = GRACE_S) -> None:
        self._root, self._grace_s = folder.running, grace_s
        self._lives = Lives(folder.running)
        self._mutex = threading.RLock()
        self._lock = filelock.FileLock(folder.root / ".lock", poll_interval=_LOCK_POLL_S, thread_local=False)
        self._holder_file = folder.root / ".holder.lock"
        self._turn = ""

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._mutex:
            if self._lock.is_locked:  # by this thread, further out
                yield
                return
            self._root.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                yield
            finally:
                self._lock.release()

    def holds_lock(self) -> bool:
        return self._lock.is_locked and _text(self._holder_file) == self._turn

    def _acquire(self) -> None:
        """Waits for the lock; takes it from a holder that was stopped while it had it.

        Time in which this process was stopped itself doesn't count: its holder may have been stopped with it.
        """
        slice_s = self._grace_s / _SLICES_IN_GRACE
        seen, stood_s = _text(self._holder_file), 0.0
        while True:
            begun = time.monotonic()
            try:
                self._lock.acquire(timeout=slice_s)
            except filelock.Timeout:
                if (holder := _text(self._holder_file)) != seen:
                    seen, stood_s = holder, 0.0
                    continue
                stood_s += min(time.monotonic() - begun, 2 * slice_s)
                if stood_s >= self._grace_s:
                    self._break(holder)
                    stood_s = 0.0
            else:
                self._take_turn()
                return

    def _take_turn(self) -> None:
        """Signs the lock with another name each time: whoever waits sees by it that it goes from hand to hand."""
        self._turn = uuid.uuid4().hex
        try:
            self._holder_file.write_text(self._turn)
        except BaseException:  # a full disk, say: nobody else may have to wait for this process's end
            self._lock.release()
            raise

    def _break(self, holder: str) -> None:
        """Takes the lock's file from its holder; those who come make a new one."""
        with filelock.FileLock(self._holder_file.with_name(".breaker.lock"), timeout=self._grace_s):
            if _text(self._holder_file) == holder:  # else another has broken it
                _log.warning("the study's lock stood still for %.0f s and is taken from its holder", self._grace_s)
                self._holder_file.write_text(uuid.uuid4().hex)
                Path(self._lock.lock_file).unlink(missing_ok=True)

    @property
    def machine(self) -> str:
        return this_machine()

    def enlist(self, worker: Worker) -> None:
        self._lives.begin(worker.id)
        write_json(self._worker_file(worker.id), dataclasses.asdict(worker))

    def beat(self, worker: Worker) -> None:
        self._lives.go_on(worker.id)
        write_json(self._worker_file(worker.id), dataclasses.asdict(worker), durable=False)

    def leave(self, worker: Worker) -> None:
        self._worker_file(worker.id).unlink(missing_ok=True)
        self._lives.end(worker.id)

    def read_workers(self) -> dict[str, Worker]:
        workers = {}
        for file in self._root.glob("worker-*.json"):
            worker = _read(file, Worker, _WORKER)
            # A name leads to files: one that is not its own file's could lead anywhere.
            if worker is not None and file == self._worker_file(worker.id):
                workers[worker.id] = worker
        return workers

    def read_worker(self, worker: str) -> Worker | None:
        return _read(self._worker_file(worker), Worker, _WORKER)

    def has_ended(self, worker: Worker) -> bool:
        return self._lives.has_ended(worker.id)

    def silent_s(self, worker: Worker) -> float:
        try:
            return time.time() - self._worker_file(worker.id).stat().st_mtime
        except FileNotFoundError:  # it has just left
            return 0.0

    def leased(self) -> list[int]:
        numbers = (file.name.removeprefix("trial-").removesuffix(".lease") for file in self._root.glob("trial-*.lease"))
        return [int(number) for number in numbers if number.isdecimal()]

    def read_leases(self) -> dict[int, Lease]:
        leases = {number: self.read(number) for number in self.leased()}
        return {number: lease for number, lease in leases.items() if lease is not None}

    def read(self, number: int) -> Lease | None:
        return _read(self._lease_file(number), Lease, _LEASE)

    def write(self, number: int, lease: Lease) -> None:
        write_json(self._lease_file(number), dataclasses.asdict(lease))

    def remove(self, number: int) -> None:
        self._lease_file(number).unlink(missing_ok=True)

    def _lease_file(self, number: int) -> Path:
        return self._root / f"trial-{number:04d}.lease"

    def _worker_file(self, worker: str) -> Path:
        return self._root / f"worker-{worker}.json"


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _read(file: Path, kind: type[_Entry], shape: dict[str, Any]) -> _Entry | None:
    """What a file says; None if it is not there, or somebody has damaged it: then it says nothing."""
    try:
        content = _read_newest(file)
    except FileNotFoundError:
        return None
    except InputError as error:
        _log.warning("%s", error)
        return None
    if misfit := find_misfit(content, shape):
        _log.warning("%s is damaged and passed over: %s", file, misfit)
        return None
    return kind(**{name: content[name] for name in shape})


def _read_newest(file: Path) -> Any:
    for _ in range(_STALE_READS):
        try:
            return read_json(file)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return read_json(file)
