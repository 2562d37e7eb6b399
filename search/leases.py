"""Who runs which trial of a study, and who is alive.

A worker has an entry with a counter that it raises as long as it lives. A lease says which worker runs a trial; each
time that a trial changes hands its generation is raised. Whatever an owner does to a study it does under the study's
lock, where it looks first whether the lease is still its own: one that was stopped and replaced changes nothing when it
wakes up.

None of this depends on clocks that agree. Times are written down for people only.
"""

import dataclasses
import functools
import platform
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

GRACE_S = 60.0
BEATS_IN_GRACE = 12
_BEATS_TO_SHOW = 2.4  # time for two, and some more for whoever is late
MOST_BEAT_S = 5.0  # whatever the grace: who looks whether a worker lives should not have to wait for minutes


@functools.cache
def this_machine() -> str:
    """Names the machine, and after a slash its running system, whose processes see each other's file locks."""
    boot, machine = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
    running = boot.read_text().strip() if boot.is_file() else ""
    # All of them: containers may share the second or the third, and clones the first.
    names = (platform.node(), machine.read_text().strip() if machine.is_file() else "", f"{uuid.getnode():x}")
    return f"{'-'.join(names)}/{running}"


def was_restarted(before: str, now: str) -> bool:
    """Whether two names are of one machine that was started anew in between, or of clones, which are named alike."""
    (machine, *running), (same_machine, *running_now) = before.split("/"), now.split("/")
    return machine == same_machine and running[:1] != running_now[:1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that runs trials, or looks after others that do.

    Attributes:
        id: Its name, used once.
        host: Of its machine, for people.
        pid: Its number there, for people.
        machine: As `Leases.machine` names it.
        device: What it computes with, in words.
        since: When it came.
        parent: The worker that started it, and that it ends with; empty for none.
        goal: Finished trials that it works towards.
        counter: Raised as long as it lives.
        beat_s: A twelfth of its grace, seconds; it raises the counter as often, or more often.
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
    beat_s: float = GRACE_S / BEATS_IN_GRACE

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.host}:{self.pid}"

    @property
    def beats_within_s(self) -> float:
        """Seconds after which it raises the counter again."""
        return min(self.beat_s, MOST_BEAT_S)

    @property
    def shows_within_s(self) -> float:
        """Seconds after which one that lives has shown it, to whoever can only watch its counter."""
        return _BEATS_TO_SHOW * self.beats_within_s


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

    @property
    @abstractmethod
    def machine(self) -> str:
        """Names this running system: of workers with the same name `is_gone` tells at once."""

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
    def read_worker(self, worker: str) -> Worker | None:
        """A worker by its id; None for one that has left."""

    @abstractmethod
    def has_ended(self, worker: Worker) -> bool:
        """Whether the process of a worker of this running system has ended; false where that can't be told."""

    def is_gone(self, worker: Worker) -> bool:
        """Whether it is certain, without waiting, that a worker's process has ended."""
        return worker.machine == self.machine and self.has_ended(worker)

    @abstractmethod
    def silent_s(self, worker: Worker) -> float:
        """Seconds since a worker last showed itself, by whatever clock: good enough to tidy up by, no more."""

    @abstractmethod
    def leased(self) -> list[int]:
        """Numbers of the trials that have a lease, be it damaged."""

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
