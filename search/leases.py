"""Who runs which trial of a study, and who is alive.

A worker has an entry with a counter that it raises as long as it lives. A lease says which worker runs a trial; each
time that a trial changes hands its generation is raised. Whatever an owner does to a study it does under the study's
lock, where it looks first whether the lease is still its own: one that was stopped and replaced changes nothing when it
wakes up.

None of this depends on clocks that agree. Times are written down for people only.
"""

import dataclasses
import functools
import logging
import platform
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import filelock

from core.artifacts import StudyFolder
from core.errors import InputError
from core.files import read_json, write_json
from core.shapes import find_misfit

GRACE_S = 60.0
_LOCK_POLL_S = 0.01
_LIFE_TIMEOUT_S = 5.0  # somebody may be looking whether it is free
_LEASE = {"generation": int, "worker": str, "since": str, "epochs": int, "deaths": int}
_WORKER = {"id": str, "host": str, "pid": int, "machine": str, "device": str, "since": str, "parent": str}
_WORKER |= {"goal": int, "counter": int}

_Entry = TypeVar("_Entry", "Worker", "Lease")

_log = logging.getLogger(__name__)


def utc() -> str:
    """The time, for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@functools.cache
def this_machine() -> str:
    """Names the running system: processes with the same name see each other's file locks."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else f"{platform.node()}-{uuid.getnode():x}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that runs trials, or looks after others that do.

    Attributes:
        id: Its name, used once.
        host: Of its machine, for people.
        pid: Its number there, for people.
        machine: As `this_machine` names it.
        device: What it computes with, in words.
        since: When it came.
        parent: The worker that started it, and that it ends with; empty for none.
        goal: Finished trials that it works towards.
        counter: Raised as long as it lives.
    """

    id: str
    host: str
    pid: int
    machine: str
    device: str
    since: str
    parent: str = ""
    goal: int = 0
    counter: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.host}:{self.pid}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lease:
    """Who runs a trial.

    Attributes:
        generation: How many owners the trial has had, this one included.
        worker: The owner's id; empty once it has given the trial back.
        since: When it took the trial.
        epochs: Epochs that had been reported by then.
        deaths: Owners in a row that were lost without an epoch to show for it.
    """

    generation: int
    worker: str
    since: str
    epochs: int
    deaths: int


class Leases(ABC):
    """Where leases and workers of one study are written down, for all who take part."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """The study's lock: nobody else changes the study meanwhile."""

    @abstractmethod
    def holds_lock(self) -> bool:
        """Whether this process still has the lock that it took: one that is stopped for long loses it."""

    @abstractmethod
    def enlist(self, worker: Worker) -> None:
        """Notes a worker that comes."""

    @abstractmethod
    def beat(self, worker: Worker) -> None:
        """Notes its counter, and itself should it have been struck off."""

    @abstractmethod
    def leave(self, worker: Worker) -> None:
        """Strikes a worker off."""

    @abstractmethod
    def read_workers(self) -> dict[str, Worker]:
        """All workers, dead ones included, by id."""

    @abstractmethod
    def is_gone(self, worker: Worker) -> bool:
        """Whether it is certain, without waiting, that a worker's process has ended; false where that can't be told."""

    @abstractmethod
    def read_leases(self) -> dict[int, Lease]:
        """All leases, by number of the trial."""

    @abstractmethod
    def read(self, number: int) -> Lease | None:
        """The lease of a trial."""

    @abstractmethod
    def write(self, number: int, lease: Lease) -> None:
        """Notes who runs a trial. Under the lock."""

    @abstractmethod
    def remove(self, number: int) -> None:
        """Forgets who ran a trial that is over. Under the lock."""


class FileLeases(Leases):
    """Files in a study's folder, which all machines that take part share.

    Args:
        folder: The study.
        grace_s: How long the holder of the study's lock may stand still before the lock is taken from it. All that is
            done under it takes milliseconds.
    """

    def __init__(self, folder: StudyFolder, *, grace_s: float = GRACE_S) -> None:
        self._root, self._grace_s = folder.running, grace_s
        self._held: dict[str, filelock.BaseFileLock] = {}  # by worker: as long as its process lives
        self._threads = threading.RLock()
        self._lock = filelock.FileLock(folder.root / ".lock", poll_interval=_LOCK_POLL_S, thread_local=False)
        self._holder_file = folder.root / ".holder.lock"
        self._turn = ""

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._threads:
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
        """Waits for the lock; takes it from a holder that was stopped while it had it."""
        seen = _text(self._holder_file)
        while True:
            try:
                self._lock.acquire(timeout=self._grace_s)
            except filelock.Timeout:
                if (holder := _text(self._holder_file)) == seen:
                    self._break(holder)
                seen = holder
            else:
                # Another name each time: whoever waits sees by it that the lock goes from hand to hand.
                self._turn = uuid.uuid4().hex
                self._holder_file.write_text(self._turn)
                return

    def _break(self, holder: str) -> None:
        """Takes the lock's file from its holder; those who come make a new one."""
        with filelock.FileLock(self._holder_file.with_name(".breaker.lock")):
            if _text(self._holder_file) == holder:  # else another has broken it
                _log.warning("the study's lock stood still for %.0f s and is taken from its holder", self._grace_s)
                self._holder_file.write_text(uuid.uuid4().hex)
                Path(self._lock.lock_file).unlink(missing_ok=True)

    def enlist(self, worker: Worker) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._hold(worker)
        write_json(self._worker_file(worker.id), dataclasses.asdict(worker))

    def _hold(self, worker: Worker) -> None:
        lock = filelock.FileLock(self._life_file(worker.id), thread_local=False)
        lock.acquire(timeout=_LIFE_TIMEOUT_S)
        self._held[worker.id] = lock

    def beat(self, worker: Worker) -> None:
        if not self._life_file(worker.id).exists():
            self._held.pop(worker.id).release(force=True)
            self._hold(worker)
        write_json(self._worker_file(worker.id), dataclasses.asdict(worker), durable=False)

    def leave(self, worker: Worker) -> None:
        self._worker_file(worker.id).unlink(missing_ok=True)
        if lock := self._held.pop(worker.id, None):
            lock.release(force=True)
        with suppress(OSError):  # Windows keeps a lock's file while anybody has it open
            self._life_file(worker.id).unlink(missing_ok=True)

    def read_workers(self) -> dict[str, Worker]:
        workers = {}
        for file in self._root.glob("worker-*.json"):
            worker = _read(file, Worker, _WORKER)
            # A name leads to files: one that is not its own file's could lead anywhere.
            if worker is not None and file == self._worker_file(worker.id):
                workers[worker.id] = worker
        return workers

    def is_gone(self, worker: Worker) -> bool:
        if worker.id in self._held or worker.machine != this_machine():
            return False
        file = self._life_file(worker.id)
        if not file.exists():
            return True
        lock = filelock.FileLock(file, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        lock.release()
        return True

    def read_leases(self) -> dict[int, Lease]:
        leases = {}
        for file in self._root.glob("trial-*.lease"):
            number = file.name.removeprefix("trial-").removesuffix(".lease")
            if number.isdecimal() and (lease := self.read(int(number))) is not None:
                leases[int(number)] = lease
        return leases

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

    def _life_file(self, worker: str) -> Path:
        """Locked as long as the worker lives."""
        return self._root / f"worker-{worker}.lock"


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _read(file: Path, kind: type[_Entry], shape: dict[str, type]) -> _Entry | None:
    """What a file says; None if it is not there, or somebody has damaged it: then it says nothing."""
    try:
        content = read_json(file)
    except FileNotFoundError:
        return None
    except InputError as error:
        _log.warning("%s", error)
        return None
    if misfit := find_misfit(content, shape):
        _log.warning("%s is damaged and passed over: %s", file, misfit)
        return None
    return kind(**{name: content[name] for name in shape})
