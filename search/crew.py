"""One worker among those of a study: what it holds, and whom it takes for dead."""

import dataclasses
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from core.durations import utc
from search.leases import BEATS_IN_GRACE, GRACE_S, Lease, Leases, Worker, was_restarted

_LOOK_S = 0.5  # between two looks whether the parent is still there
_STOOD_STILL = "the study's lock was taken from this worker while it stood still"

_log = logging.getLogger(__name__)


class FencedError(Exception):
    """A trial, or the study's lock, has another owner by now, because this one gave no sign of life for too long."""


class TakenOverError(FencedError):
    """The trial has another owner by now, for certain."""


class Crew:
    """This process's part in a study. Within it the worker is noted, and a thread shows that it is alive.

    Args:
        leases: Of the study.
        device: What this worker computes with, in words.
        goal: Finished trials that the study is to hold.
        parent: The worker that started this one, and that it ends with; empty for none.
        grace_s: A worker is dead if this one has seen its counter unchanged for so many seconds of its own time, and
            for as many as that worker was given.
    """

    def __init__(
        self, leases: Leases, *, device: str, goal: int = 0, parent: str = "", grace_s: float = GRACE_S
    ) -> None:
        self.leases, self.grace_s = leases, grace_s
        self.me = Worker(
            id=uuid.uuid4().hex[:16],
            host=platform.node(),
            pid=os.getpid(),
            machine=leases.machine,
            beat_s=grace_s / BEATS_IN_GRACE,
            device=device,
            since=utc(),
            parent=parent,
            goal=goal,
        )
        self._census = Census(leases, tick_s=self.me.beats_within_s)
        self._over = threading.Event()
        self._is_struck_off = False
        self._thread = threading.Thread(target=self._live, name="alive", daemon=True)
        self._looked_s = 0.0
        self._running: set[int] = set()  # numbers of the trials that this process is at

    def __enter__(self) -> Self:
        self.leases.enlist(self.me)
        self._thread.start()  # first: others may be looking whether this one beats
        try:
            self._sweep()
        except BaseException:
            self._over.set()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Strikes this worker off, which ends those that it has started. What failed can be tried again."""
        self._over.set()
        self._thread.join()  # or its next beat would enlist it again
        if not self._is_struck_off:
            self.leases.leave(self.me)
            self._is_struck_off = True

    def is_alone(self) -> bool:
        """Whether no other worker of this study can be alive."""
        others = (worker for worker in self.leases.read_workers().values() if worker.id != self.me.id)
        return all(self.leases.is_gone(worker) for worker in others)

    def _sweep(self) -> None:
        """Strikes off the workers whose processes have ended; their leases speak for themselves.

        So have those of before a restart of this machine, unless a clone of it runs elsewhere, whose workers beat.
        """
        others = [worker for worker in self.leases.read_workers().values() if worker.id != self.me.id]
        before = [worker for worker in others if was_restarted(worker.machine, self.me.machine)]
        if look_s := max((worker.shows_within_s for worker in before), default=0):
            _log.info("looks for %.0f s whether workers of before this machine was restarted are alive", look_s)
            time.sleep(look_s)
        counters = {worker.id: worker.counter for worker in self.leases.read_workers().values()}
        for worker in others:
            was_silent = worker in before and counters.get(worker.id) == worker.counter
            if was_silent or self.leases.is_gone(worker):
                self.leases.leave(worker)

    def _live(self) -> None:
        """Raises this worker's counter and watches those of the others, in a thread of its own."""
        counter, failed = 0, False
        while not self._over.wait(self.me.beats_within_s):
            counter += 1
            try:
                self.leases.beat(dataclasses.replace(self.me, counter=counter))
                self._census.look()
                failed = False
            except Exception as error:  # whatever it is, a worker whose heart stops loses its trials
                if not failed:
                    _log.warning("this worker can't show that it is alive: %s", error)
                failed = True

    @contextmanager
    def acting(self) -> Iterator[None]:
        """The study's lock, for something that is worth nothing if the lock is taken from this process meanwhile.

        Raises:
            FencedError: It was taken. Whatever else went wrong then is a consequence of it.
        """
        with self.leases.lock():
            try:
                yield
            except Exception as error:
                if self.leases.holds_lock():
                    raise
                raise FencedError(_STOOD_STILL) from error

    def check(self) -> None:
        """Looks whether the study's lock is still this process's. Within `acting`.

        Raises:
            FencedError: It is not.
        """
        if not self.leases.holds_lock():
            raise FencedError(_STOOD_STILL)

    def is_dead(self, worker: str) -> bool:
        """Whether a worker will not go on: it has left, its process has ended, or it has been silent for the grace.

        The longer grace counts of the two that it and this worker were given: it may beat more rarely than this one.
        """
        entry = self.leases.read_worker(worker)
        if entry is None:
            return worker != self.me.id
        grace_s = max(self.grace_s, BEATS_IN_GRACE * entry.beat_s)
        return self.leases.is_gone(entry) or self._census.silent_s(worker) >= grace_s

    def is_abandoned(self) -> bool:
        """Whether the parent, if there is one, has ended. Looks at most twice a second.

        A parent on this machine that stands still is waited for: it does nothing that others would have to take over.
        """
        now = time.monotonic()
        if not self.me.parent or now - self._looked_s < _LOOK_S:
            return False
        self._looked_s = now
        parent = self.leases.read_worker(self.me.parent)
        if parent is not None and parent.machine == self.leases.machine:
            return self.leases.is_gone(parent)
        return self.is_dead(self.me.parent)

    def is_free(self, number: int) -> bool:
        """Whether nobody runs a trial that is not over: it was given back, or its owner is dead. Under the lock."""
        lease = self.leases.read(number)
        return lease is None or self._was_let_go(number, lease) or self.is_dead(lease.worker)

    def _was_let_go(self, number: int, lease: Lease) -> bool:
        """Whether the owner has broken the trial off: another wrote that down; this worker knows, if it couldn't."""
        return not lease.worker or (lease.worker == self.me.id and number not in self._running)

    def take(self, number: int, *, epochs: int = 0) -> "Hold":
        """Makes this worker the owner of a trial that nobody runs. Within `acting`.

        Args:
            number: Of the trial.
            epochs: That have been reported of it.

        Raises:
            FencedError: The study's lock was taken from this process.
        """
        before = self.leases.read(number)
        self.check()
        was_lost = before is not None and not self._was_let_go(number, before)
        lease = Lease(
            generation=1 if before is None else before.generation + 1,
            worker=self.me.id,
            since=utc(),
            epochs=epochs,
            deaths=before.deaths + 1 if before is not None and was_lost and before.epochs == epochs else 0,
        )
        self.leases.write(number, lease)
        self._running.add(number)
        return Hold(self, number, lease)

    def let_go(self, number: int) -> None:
        """Notes that this process no longer runs a trial, whatever its lease says."""
        self._running.discard(number)


class Hold:
    """A trial that this worker runs, as long as nobody has taken it over.

    Args:
        crew: The worker.
        number: The trial's.
        lease: As it was written down.
    """

    def __init__(self, crew: Crew, number: int, lease: Lease) -> None:
        self._crew, self.number, self._lease = crew, number, lease

    @property
    def generation(self) -> int:
        """How many owners the trial has had, this one included."""
        return self._lease.generation

    @property
    def worker(self) -> str:
        """This worker, for people."""
        return self._crew.me.name

    @property
    def deaths(self) -> int:
        """Owners in a row, before this one, that were lost without an epoch to show for it."""
        return self._lease.deaths

    @contextmanager
    def acting(self) -> Iterator[None]:
        """The study's lock, for an owner that still is one.

        Raises:
            FencedError: It no longer is, or the study's lock was taken from this process.
        """
        with self._crew.acting():
            self.check()
            yield

    def check(self) -> None:
        """Looks, under the lock, whether the trial is still this worker's.

        Raises:
            TakenOverError: It is not.
            FencedError: The study's lock was taken from this process; the trial may still be its own.
        """
        self._crew.check()
        lease = self._crew.leases.read(self.number)
        if lease is None or (lease.generation, lease.worker) != (self._lease.generation, self._lease.worker):
            raise TakenOverError(f"trial {self.number} was taken over while this worker stood still")

    def end(self) -> None:
        """Forgets the lease of a trial that is over. Within `acting`."""
        self._crew.leases.remove(self.number)

    def give_back(self) -> None:
        """Lets others go on with the trial at once; nothing if it is over or another's already.

        If that can't be written down, this worker may still take the trial again.
        """
        self._crew.let_go(self.number)
        with suppress(FencedError), self.acting():
            self._crew.leases.write(self.number, dataclasses.replace(self._lease, worker=""))


class Census:
    """How long each worker of a study has been silent, by this process's own clock.

    Time in which this process did not look, as it was stopped itself, doesn't count.

    Args:
        leases: Of the study.
        tick_s: Seconds between two looks.
    """

    def __init__(self, leases: Leases, *, tick_s: float) -> None:
        self._leases, self._most_s = leases, 2 * tick_s
        self._seen: dict[str, tuple[int, float]] = {}  # counter, and seconds for which it has been seen unchanged
        self._looked = time.monotonic()

    def look(self) -> None:
        """Reads all counters."""
        workers = self._leases.read_workers().values()
        now = time.monotonic()
        passed_s, self._looked = min(now - self._looked, self._most_s), now
        before = self._seen
        self._seen = {worker.id: self._judge(worker, before, passed_s) for worker in workers}

    def _judge(self, worker: Worker, before: dict[str, tuple[int, float]], passed_s: float) -> tuple[int, float]:
        counter, silent_s = before.get(worker.id, (-1, 0.0))
        return worker.counter, silent_s + passed_s if worker.counter == counter else 0.0

    def silent_s(self, worker: str) -> float:
        """For how long a worker's counter has been seen unchanged."""
        return self._seen.get(worker, (0, 0.0))[1]
