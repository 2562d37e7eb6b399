"""Several machines: a Dask cluster with PostgreSQL and no shared folder, and two hosts that share nothing but one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from core.artifacts import StudiesFolder
from core.mirror import open_studies
from search.database import open_database
from search.database_leases import DatabaseLeases
from search.file_leases import FileLeases
from tests.postgres import server
from tests.search.test_workers import NAME, ROOT, start, trials_of, wait_for

EPOCHS, TRIALS = 30, 3


@contextmanager
def cluster(folder: Path, *, workers: int) -> Iterator[str]:
    """A Dask cluster of processes, each worker with a cache of its own; the address of its scheduler."""
    command, address_file = [sys.executable, "-m", "distributed.cli.dask_scheduler"], folder / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = []
    try:
        command += ["--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(address_file)]
        processes.append(subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL))
        wait_for(address_file.is_file, processes[0])  # type: ignore[arg-type]
        address = str(json.loads(address_file.read_text())["address"])
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        for number in range(workers):
            own = {**environment, "DERMATUNE_CACHE": str(folder / f"cache-{number}")}
            processes.append(subprocess.Popen(command, env=own, cwd=folder, stderr=subprocess.DEVNULL))
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_a_cluster_without_a_shared_folder_loses_nothing_when_a_worker_is_killed(images: Path, tmp_path: Path) -> None:
    remote = f"file://{tmp_path}/bucket"
    with server() as database, cluster(tmp_path, workers=3) as address:
        words = ("--workers", 3, "--backend", "dask", "--scheduler", address, "--storage", database.url)
        leases = DatabaseLeases(database.url, NAME)
        with start(images, remote, *words, "--epochs", EPOCHS, "--trials", TRIALS, "--grace", 3) as process:
            wait_for(leases.read_leases, process)  # its nanny starts another worker in place of the one that held it
            [owner, *_] = [lease.worker for lease in leases.read_leases().values()]
            os.kill(leases.read_workers()[owner].pid, signal.SIGKILL)
            output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "3 workers through dask" in output
        study = optuna.load_study(storage=open_database(database.url), study_name=NAME)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TRIALS
    records = open_studies(remote).study(NAME).read_trials()
    assert [(record.number, len(record.history())) for record in records] == [(n, EPOCHS) for n in range(TRIALS)]
    assert max(record.generation for record in records) > 1


def can_be_a_host() -> bool:
    """Whether this machine lets us give a process a network and a name of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--net", "--uts", "hostname", "probe"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def host(name: str, images: Path, studies: Path, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A search on another host: without any network, and with a name and a cache of its own."""
    search = [sys.executable, "-m", "search.run", "--arch", "test_efficientnet", "--weights", "none", "--device", "cpu"]
    search += ["--image-size", "32", "--patience", "0", "--pruner", "none", "--data", str(images)]
    search += ["--studies", str(studies), "--epochs", str(EPOCHS), "--trials", str(TRIALS), "--grace", "3"]
    command = ["unshare", "--net", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *search]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DERMATUNE_CACHE": str(folder / f"cache-{name}")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, env=environment, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not can_be_a_host(), reason="no right to make namespaces for networks and names")
def test_two_hosts_that_share_a_folder_and_no_network_share_a_search(images: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    leases = FileLeases(StudiesFolder(studies).study(NAME))

    def of_one() -> set[str]:
        return {worker.id for worker in leases.read_workers().values() if worker.host == "one"}

    with host("one", images, studies, tmp_path) as one, host("two", images, studies, tmp_path) as two:
        wait_for(lambda: {worker.host for worker in leases.read_workers().values()} == {"one", "two"}, one)
        assert len({worker.machine for worker in leases.read_workers().values()}) == 2
        wait_for(lambda: any(lease.worker in of_one() for lease in leases.read_leases().values()), one)
        lost = next(number for number, lease in leases.read_leases().items() if lease.worker in of_one())
        one.kill()  # the other one can only see that its counter stands still
        killed = time.monotonic()
        wait_for(lambda: leases.read_leases()[lost].generation == 2, two)
        assert time.monotonic() - killed >= 3
        _, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors
    assert [trial.state for trial in trials_of(studies)] == [TrialState.COMPLETE] * TRIALS
    records = StudiesFolder(studies).study(NAME).read_trials()
    assert [(record.number, len(record.history())) for record in records] == [(n, EPOCHS) for n in range(TRIALS)]
    assert records[lost].generation == 2
