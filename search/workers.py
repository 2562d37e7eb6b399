"""Several workers of one search: processes of this machine, or of a cluster, through joblib's backends."""

import dataclasses
import importlib.util
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import filelock
import joblib
import optuna
import torch
from joblib.externals.loky.process_executor import BrokenProcessPool
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS
from optuna.storages import JournalStorage

from core.cache import cache_folder
from core.cli import logging_to_stderr, stop_asked, stopping_cleanly
from core.device import available_cores, describe_device
from core.errors import InputError, one_line
from core.loaders import decode_once
from core.trainer import Trainer
from search.crew import Crew
from search.loop import SearchFailedError, count_finished
from search.objective import StoppedError
from search.onlooker import Onlooker
from search.pictures import Pictures
from search.setup import Settings, Setup, prepare
from search.storage import open_storage, open_study
from search.watching import Watching
from search.worker import Goal, Work, begin

MAX_CRASHES = 5  # in a row, without an epoch between them
_ONE_PROCESS = ("sequential", "threading")
_LOOK_S = 1.0
_START_TIMEOUT_S = 900.0  # decoding a large set; who waited that long starts beside the others

_LEAVE_TIMEOUT_S = 60.0

_at_work = threading.Lock()

_log = logging.getLogger(__name__)


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


def run_workers(
    setup: Setup,
    storage: JournalStorage,
    crew: Crew,
    goal: Goal,
    pictures: Pictures,
    *,
    deadline: float | None,
    best: float | None,
) -> str:
    """Has workers bring a study to its goal; returns why they stopped early, if they did.

    Args:
        setup: What the study is.
        storage: Optuna's.
        crew: This process, which the workers end with.
        goal: When the study is finished.
        pictures: Draws what the workers leave to be drawn.
        deadline: When to stop, by `time.monotonic`; None for never.
        best: The best recall so far.

    Raises:
        SearchFailedError: Too many trials fail, or too many workers die.
    """
    if setup.settings.source != "torch":
        decode_once(setup.manifest, setup.arch.image_size)  # here, where its progress can be seen
    study = open_study(storage, setup.folder.name)
    onlooker = Onlooker(setup, study, crew, goal, pictures, best=best)
    with onlooker, _looking(onlooker, deadline):
        crashes, progress = 0, -1
        while True:
            seconds_left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                outcomes = _run(setup.settings, plan_jobs(setup, goal, parent=crew.me.id, seconds_left=seconds_left))
                break
            except BrokenProcessPool as error:
                before, progress = progress, count_epochs(study)
                crashes = 1 if progress > before else crashes + 1
                if crashes >= MAX_CRASHES:
                    trouble = f"workers died {crashes} times without an epoch between"
                    raise SearchFailedError(f"{trouble} ({one_line(str(error))})") from error
                _log.warning("a worker was killed; its trial goes on from its last checkpoint")
            if stop_asked():
                return "it was asked to"
    if failed := next((outcome.failed for outcome in outcomes if outcome.failed), ""):
        raise SearchFailedError(failed)
    if count_finished(study) >= goal.n_trials:
        return ""
    return onlooker.why or next((outcome.stopped for outcome in outcomes if outcome.stopped), "its workers have left")


def refuse_backend(name: str) -> None:
    """Checks that joblib can run workers in a backend.

    Raises:
        InputError: It knows none of that name, the backend's package is absent, or its workers would not be processes.
    """
    known = sorted({*BACKENDS, *EXTERNAL_BACKENDS} - set(_ONE_PROCESS))
    if name not in known:
        raise InputError(
            f"`--backend` must be one whose workers are processes ({', '.join(known)}), but got --backend={name}. "
            "Choose one; others can be registered with joblib."
        )
    if name == "dask" and importlib.util.find_spec("distributed") is None:
        raise InputError(
            "`--backend` dask must have dask's distributed, but it is not installed here. Install it with "
            "`pip install -e .[cluster]`, on the cluster's machines too."
        )


def _run(settings: Settings, jobs: list[Job]) -> list[Outcome]:
    options: dict[str, Any] = {}
    if jobs[0].threads:
        options["inner_max_num_threads"] = jobs[0].threads
    if settings.scheduler:
        options["scheduler_host"] = settings.scheduler
    try:
        config = joblib.parallel_config(backend=settings.backend, n_jobs=len(jobs), **options)
    except (OSError, ValueError) as error:  # joblib asks the scheduler at once
        raise InputError(
            f"`--scheduler` must be the address of a Dask scheduler that answers, but got --scheduler "
            f"{settings.scheduler} ({one_line(str(error))}). Start one, or leave --backend out."
        ) from error
    with config:
        return list(joblib.Parallel(batch_size=1, pre_dispatch="all")(joblib.delayed(run_job)(job) for job in jobs))


def plan_jobs(setup: Setup, goal: Goal, *, parent: str, seconds_left: float | None) -> list[Job]:
    """One job for each worker. On this machine they share cores, memory and cards; a cluster shares out its own."""
    settings = dataclasses.replace(setup.settings, data=setup.data, study=setup.study_name)
    is_here = settings.backend == "loky"
    cards = visible_cards(settings.device) if is_here else []
    if cards:
        settings = dataclasses.replace(settings, device=torch.device("cuda:0"))
    if is_here:
        sharing = -(-settings.workers // max(1, len(cards)))  # workers that share one card, or the machine
        settings = dataclasses.replace(settings, memory=settings.memory.divided(sharing))
    return [
        Job(
            settings=settings,
            small=bool(setup.serves),
            goal=goal,
            parent=parent,
            seconds_left=seconds_left,
            card=cards[index % len(cards)] if cards else None,
            threads=max(1, available_cores() // settings.workers) if is_here else 0,
        )
        for index in range(settings.workers)
    ]


def visible_cards(device: torch.device) -> list[str]:
    """The CUDA cards that workers are shared among, as `CUDA_VISIBLE_DEVICES` names them; one that was named is all."""
    if device.type != "cuda":
        return []
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in listed.split(",")] if listed else list(map(str, range(torch.cuda.device_count())))
    return names if device.index is None else [names[device.index]]


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
    if job.settings.backend == "loky":
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
        study = begin(setup, open_storage(job.settings.studies))
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
                with trainer.data.source:
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


def count_epochs(study: optuna.Study) -> int:
    """Epochs that have been reported of all trials."""
    return sum(len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False))


@contextmanager
def _looking(onlooker: Onlooker, deadline: float | None) -> Iterator[None]:
    """Looks on from a thread of its own, since this one waits for the workers; ends them when they should stop."""
    over = threading.Event()

    def look_on() -> None:
        while not over.wait(_LOOK_S):
            onlooker.look()
            if stop_asked():
                onlooker.end_workers("it was asked to")
            elif deadline is not None and time.monotonic() > deadline:
                onlooker.end_workers("the --timeout is over")

    thread = threading.Thread(target=look_on, name="onlooker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        onlooker.look()
