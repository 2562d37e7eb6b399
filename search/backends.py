"""Where workers of a search run: processes of this machine through joblib's loky, of a Dask cluster, or elsewhere.

A backend here is what runs one worker to its end and tells when its process has died.
"""

import importlib.util
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS, get_active_backend

from core.answers import NoAnswerError, answer_within
from core.errors import InputError, LostError, few, one_line
from search.job import Job, Outcome, run_job

if TYPE_CHECKING:
    from distributed import Client

_ONE_PROCESS = ("sequential", "threading")
_FORGETFUL = "multiprocessing"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_ANSWER_S = 10  # that a scheduler has for its answer, as Dask waits for half a minute or, of other servers, for ever
_LOOK_S = 0.5
_END_S = 60  # that workers of a cluster have to end with their search; they would end later, too

_log = logging.getLogger(__name__)


class WorkerKilledError(Exception):
    """The process of a worker has died."""


def refuse_backend(name: str, scheduler: str) -> None:
    """Checks that workers can run in a backend.

    Args:
        name: Its name.
        scheduler: Address of Dask's; empty for all others.

    Raises:
        InputError: joblib knows none of that name, the backend's package is absent, its workers would not be processes,
            one that is killed would never be missed, or the scheduler doesn't answer or can't load what it shall run.
    """
    if name == _FORGETFUL:
        raise InputError(
            f"`--backend` must be one that notices when a worker is killed, but got --backend={name}, whose pool would "
            "wait for that worker for ever. Leave --backend out: loky runs processes of this machine, too."
        )
    known = sorted({*BACKENDS, *EXTERNAL_BACKENDS} - {*_ONE_PROCESS, _FORGETFUL})
    if name not in known:
        raise InputError(
            f"`--backend` must be one whose workers are processes ({', '.join(known)}), but got --backend={name}. "
            "Choose one; others can be registered with joblib."
        )
    if name == "dask":
        if importlib.util.find_spec("distributed") is None:
            raise InputError(
                "`--backend` dask must have dask's distributed, but it is not installed here. Install it with "
                "`pip install -e .[cluster]`, on the cluster's machines too."
            )
        with _connect(scheduler) as client:
            _refuse_without_project(client, scheduler)


def _refuse_without_project(client: "Client", scheduler: str) -> None:
    """Checks that a scheduler and its present workers can load a job: a worker that can't would die of each anew.

    Raises:
        InputError: One can't.
    """
    name = run_job.__module__

    def look() -> list[str]:
        # Something of Python's own is sent: even to receive a function of ours takes the project.
        try:
            found = client.run_on_scheduler(importlib.util.find_spec, name)  # type: ignore[no-untyped-call]
        except ModuleNotFoundError as error:
            found = error
        there = {scheduler: found, **client.run(importlib.util.find_spec, name, on_error="return")}
        # One that goes meanwhile gives other errors.
        return sorted(address for address, told in there.items() if told is None or isinstance(told, ImportError))

    try:
        without = answer_within(_ANSWER_S, look)
    except TimeoutError:  # one that stands still may have it
        return
    if without:
        raise InputError(
            f"`--scheduler` must be of a cluster with dermatune on each machine, but {few(without)} cannot "
            f"import {name}. Install it there as here, or start their processes with PYTHONPATH set to a clone of it."
        )


def live_here(job: Job) -> Outcome:
    """Runs a worker of this machine in a pool of its own: a process that is killed breaks no other's.

    Raises:
        WorkerKilledError: Its process has died.
    """
    threads = dict.fromkeys(_THREADS, str(job.threads))
    try:
        with ProcessPoolExecutor(max_workers=1, env=threads) as pool:
            outcome: Outcome = pool.submit(run_job, job).result()
            return outcome
    except BrokenProcessPool as error:
        raise WorkerKilledError(str(error)) from error


@contextmanager
def on_dask(scheduler: str, why_ended: Callable[[], str]) -> Iterator[Callable[[Job], Outcome]]:
    """What runs a worker on a Dask cluster. Not through joblib, whose backend waits for ever for one that failed.

    Args:
        scheduler: Its address.
        why_ended: Tells why the search has ended, once it has.

    Raises:
        WorkerKilledError: By what is yielded: the worker's process has died, and so have those that tried it again.
        InputError: The scheduler doesn't answer.
        LostError: It did, and has stopped.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.client import ClosedClientError

    def live(job: Job) -> Outcome:
        try:
            future, ended_at, was_told = client.submit(run_job, job, pure=False), 0.0, False
            while not future.done():
                time.sleep(_LOOK_S)
                is_alone = not client.scheduler_info().get("workers")  # without a scheduler it tells of nothing
                if is_alone and not was_told:
                    _log.warning("the Dask cluster at %s has no workers; their trials wait until it has", scheduler)
                    was_told = True
                if why := why_ended():  # a worker ends by itself, if there is one
                    ended_at = ended_at or time.monotonic()
                    if is_alone or time.monotonic() - ended_at > _END_S:
                        future.cancel()
                        return Outcome(stopped=why)
            outcome: Outcome = future.result()
        except KilledWorker as error:  # the scheduler has tried it again several times
            raise WorkerKilledError(str(error)) from error
        except (CancelledError, ClosedClientError) as error:  # nobody here cancels: the connection was closed
            raise LostError(
                f"The Dask scheduler at {scheduler} must answer, but no longer does. Once it does, the same command "
                "goes on."
            ) from error
        return outcome

    with _connect(scheduler) as client:
        yield live


def _connect(scheduler: str) -> "Client":
    """A client of a scheduler.

    Raises:
        InputError: None answers there, in time.
    """
    from distributed import Client
    from distributed.comm.addressing import get_address_host_port

    try:
        # First, since a client that has failed takes its time to go, and does so aloud.
        host, port = get_address_host_port(scheduler, strict=True)
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
        # Its own timeout comes first, and isn't kept where what listens is no scheduler.
        return answer_within(
            _ANSWER_S + 1,
            lambda: Client(scheduler, timeout=_ANSWER_S, set_as_default=False),  # type: ignore[no-untyped-call]
        )
    except NoAnswerError:
        reason = f"what listens there has said nothing for {_ANSWER_S} s"
    except Exception as error:  # of whatever kind, by what answers there
        reason = one_line(str(error))
    raise InputError(
        f"`--scheduler` must be the address of a Dask scheduler that answers, tcp://HOST:PORT, but got --scheduler "
        f"{scheduler} ({reason}). Start one, or leave --backend out."
    )


def run_elsewhere(backend: str, jobs: list[Job], on_failure: Callable[[str], None]) -> list[Outcome]:
    """Runs workers through joblib, whose backend sees to it that each runs to its end.

    Args:
        backend: Its name.
        jobs: One for each worker.
        on_failure: Is told why, once a worker has seen too many trials fail.
    """
    outcomes: list[Outcome] = []
    with joblib.parallel_config(backend=backend, n_jobs=len(jobs)):
        can_tell_of_each = get_active_backend()[0].supports_return_generator
        return_as = "generator_unordered" if can_tell_of_each else "list"
        workers = joblib.Parallel(batch_size=1, pre_dispatch="all", return_as=return_as)
        for outcome in workers(joblib.delayed(run_job)(job) for job in jobs):
            if outcome.failed:
                on_failure(outcome.failed)
            outcomes.append(outcome)
    return outcomes
