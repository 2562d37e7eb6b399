"""A worker of a search with several: what it is told, and its life in a process of its own."""

import dataclasses
import logging
import multiprocessing
import os
import threading
import time
from contextlib import suppress

import filelock
import torch

from core.cache import cache_folder
from core.cli import logging_to_stderr, stopping_cleanly
from core.device import describe_device
from core.errors import InputError
from core.trainer import Trainer
from search.crew import Crew
from search.loop import SearchFailedError
from search.objective import StoppedError
from search.pictures import Pictures
from search.setup import Settings, Setup, prepare
from search.storage import open_storage
from search.watching import Watching
from search.worker import Goal, Work, begin

_LOOK_S = 1.0
_START_TIMEOUT_S = 900.0  # decoding a large set; who waited that long starts beside the others
_LEAVE_TIMEOUT_S = 60.0

_at_work = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told.

    Attributes:
        settings: As the user's, with this worker's share of the memory.
        small: Whether it works on the study that serves another.
        goal: When the study is finished.
        parent: The worker that started it.
        seconds_left: Until it stops; None for never.
        card: What `CUDA_VISIBLE_DEVICES` says; None leaves it as it is.
        threads: Of PyTorch on the CPU; 0 for as many as it takes by itself.
    """

    settings: Settings
    small: bool
    goal: Goal
    parent: str
    seconds_left: float | None
    card: str | None
    threads: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a worker ended.

    Attributes:
        stopped: Why it stopped before the study was finished; empty if it did not.
        failed: Why the search should not go on; empty if it may.
    """

    stopped: str = ""
    failed: str = ""


def run_job(job: Job) -> Outcome:
    """A worker's life, in a process of its own.

    Raises:
        InputError: Another worker lives in this process.
    """
    if not _at_work.acquire(blocking=False):
        raise InputError(
            "A worker must have a process of its own, since PyTorch's random numbers are the process's, but got one "
            "that has another. Start the cluster's workers with one thread each."
        )
    try:
        return _work(job)
    finally:
        _at_work.release()


def _work(job: Job) -> Outcome:
    if job.card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.card  # before this process has used CUDA
    if job.settings.backend != "loky":
        # Dask's nanny makes its workers daemons, which Python denies children; images are decoded by some.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    else:
        # Its own way of starting processes is not one that theirs could use in turn.
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if job.threads:
        torch.set_num_threads(job.threads)
    deadline = None if job.seconds_left is None else time.monotonic() + job.seconds_left
    with logging_to_stderr(logging.WARNING), stopping_cleanly():
        setup = prepare(job.settings)
        if job.small:
            setup = setup.at_search_size()
        study = begin(setup, open_storage(job.settings.studies, job.settings.database, grace_s=job.settings.grace_s))
        manifest = setup.manifest
        truth_N = manifest.labels[setup.split.val]
        with (
            Crew(
                setup.leases(),
                device=describe_device(job.settings.device),
                goal=job.goal.n_trials,
                parent=job.parent,
                grace_s=job.settings.grace_s,
            ) as crew,
            Pictures(job.settings.studies.artifacts, truth_N, manifest.classes, drawer="elsewhere") as pictures,
        ):
            watcher = Watching(deadline, crew)
            work = Work(setup=setup, study=study, crew=crew, goal=job.goal, watcher=watcher, pictures=pictures)
            try:
                trainer = _open_in_turn(setup, watcher)
                with trainer.data:
                    return Outcome(stopped=work.run(trainer))
            except StoppedError as stop:
                return Outcome(stopped=str(stop))
            except SearchFailedError as error:
                return Outcome(failed=str(error))


def _end_with(search: int) -> None:
    """Ends this process once the one that started it is gone: loky's would wait for its next task for minutes.

    Args:
        search: Number of the process that started this one.
    """
    while os.getppid() == search:
        time.sleep(_LOOK_S)
    _at_work.acquire(timeout=_LEAVE_TIMEOUT_S)  # the trial under way stops by itself
    os._exit(1)


def _open_in_turn(setup: Setup, watcher: Watching) -> Trainer:
    """Opens a trainer while no other worker of this machine does: what one decodes, the next ones find."""
    turn = filelock.FileLock(cache_folder("workers") / "starting.lock")
    begun = time.monotonic()
    while not turn.is_locked and time.monotonic() - begun < _START_TIMEOUT_S:
        watcher.check()
        with suppress(filelock.Timeout):
            turn.acquire(timeout=1)
    try:
        return setup.open_trainer()
    finally:
        turn.release()
