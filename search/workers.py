"""Several workers of one search: how the machine is shared among them, and what happens when one is killed."""

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

import optuna
import torch
from optuna.storages import BaseStorage

from core.cli import stop_asked
from core.device import available_cores, free_memory
from core.errors import LostError, one_line
from core.loaders import decode_ahead, decode_once
from core.pixels import ensure_array_of_files
from search.backends import WorkerKilledError, live_here, on_dask, run_elsewhere
from search.crew import Crew
from search.job import Job, Outcome
from search.loop import SearchFailedError, count_finished
from search.objective import MAX_DEATHS
from search.onlooker import Onlooker
from search.pictures import Pictures
from search.setup import Setup
from search.storage import open_study
from search.worker import Goal

MAX_CRASHES = MAX_DEATHS + 1  # in a row, without an epoch between them: a trial that kills its processes ends first
_LOOK_S = 1.0

_log = logging.getLogger(__name__)


def run_workers(
    setup: Setup,
    storage: BaseStorage,
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
    settings = setup.settings
    if settings.source != "torch":
        _decode(setup)  # here, where its progress can be seen
        if (pool := setup.unlabelled) is not None and settings.device.type == "cpu":
            ensure_array_of_files(pool.files, pool.sha256, setup.arch.frame)
    study = open_study(storage, setup.folder.name)
    onlooker = Onlooker(setup, study, crew, goal, pictures, best=best)
    with onlooker, _looking(onlooker, deadline):
        jobs = plan_jobs(setup, goal, parent=crew.me.id, deadline=deadline)
        if settings.backend == "loky":
            outcomes = Relay(study, onlooker, live_here).run(jobs)
        elif settings.backend == "dask":
            with on_dask(settings.scheduler, lambda: onlooker.why) as live:
                outcomes = Relay(study, onlooker, live).run(jobs)
        else:
            outcomes = run_elsewhere(settings.backend, jobs, partial(_end_all, onlooker))
    if count_finished(study) >= goal.n_trials:
        return ""
    if failed := next((outcome.failed for outcome in outcomes if outcome.failed), ""):
        raise SearchFailedError(failed)
    return onlooker.why or next((outcome.stopped for outcome in outcomes if outcome.stopped), "its workers have left")


def _decode(setup: Setup) -> None:
    """Writes what the workers will read into the cache."""
    settings, manifest, frame = setup.settings, setup.manifest, setup.arch.frame
    if settings.device.type != "cpu" and settings.source != "ffcv":
        # How much fits a card can't be asked without a context there, which this process would hold to the end.
        decode_once(manifest, frame)
        return
    memory = 0 if settings.source == "ffcv" else settings.memory.of(free_memory(settings.device)) // settings.workers
    decode_ahead(
        manifest, frame, rows=setup.split.unsealed, device=settings.device, kind=settings.source, memory=memory
    )


class Relay:
    """Runs workers, and another in the place of each that is killed.

    Args:
        study: Shows whether anything goes on.
        onlooker: Ends the workers where that must be.
        live: Runs one to its end, or raises WorkerKilledError.
    """

    def __init__(self, study: optuna.Study, onlooker: Onlooker, live: Callable[[Job], Outcome]) -> None:
        self._study, self._onlooker, self._live = study, onlooker, live
        self._threads = threading.Lock()
        self._crashes, self._progress = 0, -1

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Runs all to their ends.

        Raises:
            SearchFailedError: Workers die again and again.
        """
        with ThreadPoolExecutor(len(jobs)) as threads:
            return list(threads.map(self._run, jobs))

    def _run(self, job: Job) -> Outcome:
        try:
            while True:
                try:
                    outcome = self._live(job)
                    if outcome.failed:
                        _end_all(self._onlooker, outcome.failed)
                    return outcome
                except WorkerKilledError as error:
                    self._count_crash(error)
                if self._onlooker.why:
                    return Outcome(stopped=self._onlooker.why)
        except BaseException as error:
            _end_all(self._onlooker, str(error))  # the others, which this thread's end would wait for
            raise

    def _count_crash(self, error: WorkerKilledError) -> None:
        with self._threads:
            before, self._progress = self._progress, count_epochs(self._study)
            self._crashes = 1 if self._progress > before else self._crashes + 1
            if self._crashes >= MAX_CRASHES:
                trouble = f"workers died {self._crashes} times without an epoch between"
                raise SearchFailedError(f"{trouble} ({one_line(str(error))})") from error
        _log.warning("a worker was killed; its trial goes on from its last checkpoint")


def _end_all(onlooker: Onlooker, why: str) -> None:
    """Lets all workers stop after their present step."""
    with suppress(LostError):  # `_looking` tries again until it has been written down
        onlooker.end_workers(why)


def plan_jobs(setup: Setup, goal: Goal, *, parent: str, deadline: float | None) -> list[Job]:
    """One job for each worker. On this machine they share cores, memory and cards; a cluster shares out its own."""
    settings = dataclasses.replace(setup.settings, data=setup.data, study=setup.study_name, framing=setup.arch.framing)
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
            seconds_left=None if deadline is None else max(0.0, deadline - time.monotonic()),
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


def count_epochs(study: optuna.Study) -> int:
    """Epochs that have been reported of all trials."""
    return sum(len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False))


@contextmanager
def _looking(onlooker: Onlooker, deadline: float | None) -> Iterator[None]:
    """Looks on from a thread of its own, since this one waits for the workers; ends them when they should stop."""
    over, told = threading.Event(), set[str]()

    def attempt(step: Callable[[], None], failure: str) -> None:
        # Whatever it is, those who have to stop for it are the workers, and somebody must go on to end them.
        try:
            step()
        except Exception as error:
            if (trouble := one_line(f"{failure}: {type(error).__name__}: {error}")) not in told:
                _log.warning("%s", trouble)
            told.add(trouble)

    def end() -> None:
        if stop_asked():
            onlooker.end_workers("it was asked to")
        elif deadline is not None and time.monotonic() > deadline:
            onlooker.end_workers("the --timeout is over")
        elif onlooker.why:  # somebody has tried to end them, perhaps in vain
            onlooker.end_workers(onlooker.why)

    def look() -> None:
        attempt(onlooker.look, "how the trials come along can't be shown")

    def look_on() -> None:
        while not over.wait(_LOOK_S):
            attempt(end, "the workers can't be told to stop")
            look()

    thread = threading.Thread(target=look_on, name="onlooker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
