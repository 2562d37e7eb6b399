"""Several workers of one search: real processes, killed and stopped."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
import psutil
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

from core.artifacts import StudiesFolder
from core.budget import Budget
from core.errors import InputError, LostError
from search.backends import WorkerKilledError, live_here, refuse_backend, run_elsewhere
from search.crew import Crew
from search.file_leases import FileLeases
from search.job import Job, Outcome
from search.leases import Worker
from search.loop import SearchFailedError
from search.run import build_parser, read_settings
from search.storage import open_storage
from search.worker import Goal
from search.workers import MAX_CRASHES, Relay, _end_all, _looking, visible_cards
from tests.search.test_run import search

ROOT = Path(__file__).parents[2]
NAME = "demo-test_efficientnet"


def small_trials(images: Path, studies: Path, *words: object) -> list[str]:
    """What is typed behind `search.run`."""
    small = ["--arch", "test_efficientnet", "--weights", "none", "--device", "cpu", "--image-size", "32"]
    small += ["--patience", "0", "--pruner", "none"]
    return [*small, "--data", str(images), "--studies", str(studies), *map(str, words)]


def start(images: Path, studies: Path, *words: object) -> "subprocess.Popen[str]":
    """A search of small trials in a process of its own."""
    command = [sys.executable, "-m", "search.run", *small_trials(images, studies, *words)]
    # One core as on a machine whose other one is busy: the same number of threads however many workers there are.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environment, **pipes)  # type: ignore[call-overload,no-any-return]


def trials_of(studies: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(storage=open_storage(StudiesFolder(studies)), study_name=NAME).trials


def wait_for(what: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_at_work(studies: Path) -> list[int]:
    """Process numbers of the workers that a search has started."""
    entries = [json.loads(file.read_text()) for file in (studies / NAME / "running").glob("worker-*.json")]
    return [entry["pid"] for entry in entries if entry["parent"]]


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_two_workers_share_a_search_and_give_the_numbers_that_one_gives(images: Path, tmp_path: Path) -> None:
    alone, tmp_path = tmp_path / "alone", tmp_path / "two"
    with start(images, tmp_path, "--workers", 2, "--epochs", 2, "--trials", 5) as process:
        assert search(*small_trials(images, alone, "--epochs", 2, "--trials", 3)) == 0
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.COMPLETE] * 5
    for number in range(5):
        assert re.search(rf"^trial {number} on \S+:\d+: lr=", output, re.MULTILINE)
        assert re.search(rf"^trial {number}   2/2   recall 0\.\d{{3}}$", output, re.MULTILINE)
        assert re.search(rf"^trial {number} complete: validation recall 0\.\d{{3}} \(", output, re.MULTILINE)
    storage = open_storage(StudiesFolder(tmp_path))
    metas = [meta for trial in trials_of(tmp_path) for meta in get_all_artifact_meta(trial, storage=storage)]
    assert len(metas) == 10
    assert all((tmp_path / "artifacts" / meta.artifact_id).is_file() for meta in metas)
    assert list((tmp_path / NAME / "running").iterdir()) == []
    assert len(json.loads((tmp_path / NAME / "summary.json").read_text())["slices"]["lr"]) == 5
    records = [StudiesFolder(folder).study(NAME).read_trials() for folder in (alone, tmp_path)]
    for one, another in zip(*records, strict=False):
        assert one.config == another.config
        assert [row["val_loss"] for row in one.history()] == [row["val_loss"] for row in another.history()]


def test_a_killed_worker_costs_nothing_that_was_finished_and_its_trial_keeps_its_number(
    images: Path, tmp_path: Path
) -> None:
    with start(images, tmp_path, "--workers", 2, "--epochs", 25, "--trials", 3) as process:
        running = tmp_path / NAME / "running"
        wait_for(lambda: list(running.glob("trial-*.lease")) and workers_at_work(tmp_path), process)
        owner = json.loads(next(running.glob("trial-*.lease")).read_text())["worker"]
        os.kill(json.loads((running / f"worker-{owner}.json").read_text())["pid"], signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "a worker was killed; its trial goes on from its last checkpoint" in errors
    assert re.search(r"^trial \d continued on \S+: ", output, re.MULTILINE)
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.COMPLETE] * 3
    records = StudiesFolder(tmp_path).study(NAME).read_trials()
    assert [(record.number, len(record.history())) for record in records] == [(0, 25), (1, 25), (2, 25)]
    assert max(record.generation for record in records) > 1


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_workers_end_with_their_search(images: Path, tmp_path: Path, number: signal.Signals) -> None:
    with start(images, tmp_path, "--workers", 2, "--epochs", 4000, "--trials", 2) as process:
        wait_for(lambda: len(workers_at_work(tmp_path)) == 2, process)
        workers = workers_at_work(tmp_path)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 0, errors
        assert "The search stopped because it was asked to. The same command continues it." in output
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_same_command_typed_twice_joins_the_search(images: Path, tmp_path: Path) -> None:
    words = ("--epochs", 30, "--trials", 4)
    with start(images, tmp_path, *words) as first, start(images, tmp_path, *words) as second:
        outputs = [process.communicate(timeout=300) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.COMPLETE] * 4
    ran = [set(re.findall(r"^trial (\d) complete", output, re.MULTILINE)) for output, _ in outputs]
    assert ran[0] | ran[1] == {"0", "1", "2", "3"}
    assert not ran[0] & ran[1]


def address_file(folder: Path) -> str:
    """Where a cluster's scheduler writes its address."""
    return str(folder / "scheduler.json")


# What Python runs of one part of a cluster on a machine that has no copy of the project.
WITHOUT_PROJECT = """
import importlib, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("core", "search"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent)
importlib.import_module(sys.argv.pop(1)).main()
"""


@contextmanager
def cluster(
    folder: Path, *, workers: int, without_project: str = ""
) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """A Dask cluster of processes; the address of its scheduler, and its workers.

    Args:
        folder: Where the scheduler writes its address.
        workers: How many.
        without_project: ``scheduler`` or ``worker`` has these on machines where the project is not installed.
    """

    def python(part: str) -> list[str]:
        module = f"distributed.cli.dask_{part}"
        how = ["-c", WITHOUT_PROJECT, module] if part == without_project else ["-m", module]
        return [sys.executable, *how]

    command, named = python("scheduler"), Path(address_file(folder))
    named.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = []
    try:
        command += ["--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(named)]
        processes.append(subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL))
        wait_for(named.is_file, processes[0])
        address = json.loads(named.read_text())["address"]
        command = [*python("worker"), address, "--nthreads", "1", "--no-dashboard"]
        command += ["--no-nanny"] if without_project else []  # which would start them by another command
        for _ in range(workers):
            processes.append(subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL))
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("allowed_failures", ["3", "0"])
def test_workers_of_a_dask_cluster_run_a_search_though_one_is_killed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed_failures: str
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", allowed_failures)
    with cluster(tmp_path, workers=2) as (address, _):
        words = ("--workers", 2, "--backend", "dask", "--scheduler", address, "--epochs", 60, "--trials", 3)
        with start(images, tmp_path, *words) as process:
            wait_for(lambda: list((tmp_path / NAME / "running").glob("trial-*.lease")), process)
            wait_for(lambda: workers_at_work(tmp_path), process)
            os.kill(workers_at_work(tmp_path)[0], signal.SIGKILL)  # its nanny starts another
            output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "2 workers through dask" in output
    # Whoever tries it again then, Dask or we, nobody gives up.
    assert ("a worker was killed" in errors) == (allowed_failures == "0")
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.COMPLETE] * 3
    records = StudiesFolder(tmp_path).study(NAME).read_trials()
    assert [(record.number, len(record.history())) for record in records] == [(0, 60), (1, 60), (2, 60)]


@pytest.mark.slow
def test_a_search_on_a_dask_cluster_without_workers_ends_when_it_should(images: Path, tmp_path: Path) -> None:
    words = ("--workers", 2, "--backend", "dask", "--epochs", 1, "--trials", 1, "--timeout", 20, "--scheduler")
    with cluster(tmp_path, workers=0) as (address, _), start(images, tmp_path, *words, address) as process:
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert f"the Dask cluster at {address} has no workers" in errors
    assert "the --timeout is over" in output


def only_worker(scheduler: str) -> tuple[str, int]:
    """Address and process of a cluster's one worker, once it is there."""
    from distributed import Client  # seconds to import

    with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        client.wait_for_workers(1)
        [(address, pid)] = client.run(os.getpid).items()
    return address, pid


@pytest.mark.slow
@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_a_dask_cluster_without_the_project_is_refused(tmp_path: Path, part: str) -> None:
    with cluster(tmp_path, workers=1, without_project=part) as (address, _):
        worker, _ = only_worker(address)
        where = address if part == "scheduler" else worker
        with pytest.raises(InputError, match=rf"but {where} cannot import search\.job\. Install it there"):
            refuse_backend("dask", address)


@pytest.mark.slow
def test_a_dask_worker_that_stands_still_keeps_nobody_waiting(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=1) as (address, _):
        _, pid = only_worker(address)
        os.kill(pid, signal.SIGSTOP)
        try:
            start_s = time.monotonic()
            refuse_backend("dask", address)
            assert time.monotonic() - start_s < 30
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_search_whose_dask_scheduler_is_gone_says_so_and_goes_on_with_another(images: Path, tmp_path: Path) -> None:
    words = ("--workers", 1, "--backend", "dask", "--epochs", 40, "--trials", 1)
    with (
        cluster(tmp_path, workers=1) as (address, _),
        start(images, tmp_path, *words, "--scheduler", address) as process,
    ):
        wait_for(lambda: workers_at_work(tmp_path), process)
        [scheduler] = [each for each in psutil.process_iter(["cmdline"]) if address_file(tmp_path) in each.cmdline()]
        scheduler.kill()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert f"The Dask scheduler at {address} must answer, but no longer does" in errors.splitlines()[-1]
    with (
        cluster(tmp_path, workers=1) as (address, _),
        start(images, tmp_path, *words, "--scheduler", address) as process,
    ):
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    [record] = StudiesFolder(tmp_path).study(NAME).read_trials()
    assert len(record.history()) == 40


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--backend", "threading"), "`--backend` must be one whose workers are processes (dask, loky"),
        (("--backend", "multiprocessing"), "`--backend` must be one that notices when a worker is killed, but got"),
        (("--backend", "magic"), "but got --backend=magic"),
        (("--backend", "dask"), "`--scheduler` must be given with --backend dask and with no other, but got"),
        (("--scheduler", "tcp://a:1"), "but got --backend loky and --scheduler tcp://a:1"),
        (("--backend", "dask", "--scheduler", "nowhere"), "must be the address of a Dask scheduler that answers"),
        (("--backend", "dask", "--scheduler", "tcp://127.0.0.1:1"), "must be the address of a Dask scheduler that"),
        (("--backend", "dask", "--scheduler", "tcp://127.0.0.1:port"), "must be the address of a Dask scheduler that"),
        (("--workers", "0"), "`--workers` must be a whole number from 1"),
    ],
)
def test_workers_that_cannot_be_are_refused(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setattr("search.backends._ANSWER_S", 1)
    common = ("--arch", "test_efficientnet", "--image-size", 32, "--weights", "none", "--device", "cpu")
    assert search(*common, "--data", images, "--studies", tmp_path / "studies", "--trials", 1, *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("INFO")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not (tmp_path / "studies").exists()


def test_a_server_that_says_nothing_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.backends._ANSWER_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"but got --scheduler {address} \(what listens there has said nothing"):
            refuse_backend("dask", address)


def test_looking_on_goes_on_whatever_can_not_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    class Blind:
        looks, why = 0, ""

        def look(self) -> None:
            self.looks += 1
            raise InputError("val_probs.npy must be an array of numbers, but it is damaged.")

        def end_workers(self, why: str) -> None:
            self.why = why

    onlooker = Blind()
    with _looking(cast(Any, onlooker), deadline=time.monotonic() + 1.5):
        wait_for_calm = time.monotonic() + 10
        while not onlooker.why:
            assert time.monotonic() < wait_for_calm
            time.sleep(0.05)
    assert onlooker.why == "the --timeout is over"
    assert onlooker.looks > 1
    assert caplog.text.count("can't be shown: InputError") == 1


@pytest.mark.parametrize("is_asked", [True, False])
def test_workers_are_told_to_stop_until_it_has_been_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_asked: bool
) -> None:
    class Forgetful(FileLeases):
        """Can't be written to at first."""

        fails = 2

        def leave(self, worker: Worker) -> None:
            if self.fails:
                self.fails -= 1
                raise LostError("The database must answer, but does not.")
            super().leave(worker)

    class Ending:
        why = "" if is_asked else "too many workers died"

        def look(self) -> None:
            """Shows nothing."""

        def end_workers(self, why: str) -> None:
            self.why = self.why or why
            crew.leave()

    monkeypatch.setattr("search.workers._LOOK_S", 0.05)
    monkeypatch.setattr("search.workers.stop_asked", lambda: is_asked)
    leases = Forgetful(StudiesFolder(tmp_path).study("tiny"))
    with Crew(leases, device="none") as crew, _looking(cast(Any, Ending()), deadline=None):
        until = time.monotonic() + 10
        while leases.read_worker(crew.me.id) is not None:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert caplog.text.count("the workers can't be told to stop: LostError: The database must answer") == 1


class Calm:
    """Notes why workers are ended."""

    why = ""

    def end_workers(self, why: str) -> None:
        self.why = self.why or why


class Forgetting(Calm):
    """Notes why workers are ended, and can't write it down at first."""

    def end_workers(self, why: str) -> None:
        super().end_workers(why)
        raise LostError("The database must answer, but does not.")


def jobs() -> list[Job]:
    """One for each of two workers."""
    words = ["--arch", "test_efficientnet", "--device", "cpu", "--data", "images", "--trials", "9", "--workers", "2"]
    [settings] = read_settings(build_parser().parse_args(words))
    job = Job(
        settings=settings,
        small=False,
        goal=Goal(n_trials=9, keep=1),
        parent="",
        seconds_left=None,
        card="broken",
        threads=1,
    )
    return [job, dataclasses.replace(job, card="whole")]


def test_a_killed_worker_is_replaced_until_they_die_again_and_again(study: optuna.Study) -> None:
    lives: list[str] = []

    def live(job: Job) -> Outcome:
        lives.append(str(job.card))
        if len(lives) < deaths + 1:
            raise WorkerKilledError("Attempted to run task on 4 different workers")
        return Outcome()

    deaths = MAX_CRASHES - 1
    assert Relay(study, cast(Any, Calm()), live).run(jobs()[:1]) == [Outcome()]
    assert len(lives) == MAX_CRASHES
    deaths = 99
    with pytest.raises(SearchFailedError, match=rf"workers died {MAX_CRASHES} times without an epoch between \(Attem"):
        Relay(study, cast(Any, Calm()), live).run(jobs()[:1])


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_one_worker_that_sees_too_many_failures_ends_all(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    onlooker = Forgetting()

    def work(job: Job) -> Outcome:
        if job.card == "broken":
            return Outcome(failed="3 trials in a row failed alike (CUDA error)")
        until = time.monotonic() + 10
        while not onlooker.why:
            assert time.monotonic() < until
            time.sleep(0.02)
        return Outcome(stopped="the search that it serves has ended")

    monkeypatch.setattr("search.backends.run_job", work)
    monkeypatch.setattr("search.backends.ProcessPoolExecutor", lambda max_workers, env: ThreadPoolExecutor(1))
    told = jobs()
    if backend == "loky":
        outcomes = Relay(study, cast(Any, onlooker), live_here).run(told)
    else:
        outcomes = run_elsewhere(backend, told, partial(_end_all, cast(Any, onlooker)))
    assert onlooker.why == "3 trials in a row failed alike (CUDA error)"
    assert {outcome.stopped for outcome in outcomes} == {"", "the search that it serves has ended"}


def test_workers_share_the_memory_that_was_asked_for() -> None:
    assert Budget.parse("--memory", "8GB").divided(4).of(10**10) == 2 * 10**9
    assert Budget.parse("--memory", "40%").divided(4).of(10**10) == 10**9


def test_cards_are_shared_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert visible_cards(torch.device("cuda")) == ["3", "GPU-5f"]
    assert visible_cards(torch.device("cuda:1")) == ["GPU-5f"]
    assert visible_cards(torch.device("cpu")) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_cards(torch.device("cuda")) == ["0", "1"]
