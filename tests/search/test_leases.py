"""Who runs what, with real processes that are killed and stopped."""

import dataclasses
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from core.artifacts import StudiesFolder, StudyFolder
from search.crew import Census, Crew, FencedError
from search.file_leases import FileLeases
from search.leases import Lease, Worker, this_machine
from search.lives import Lives

ROOT = Path(__file__).parents[2]
MEMBER = """
import sys, time
from pathlib import Path
from core.artifacts import StudiesFolder
from search.crew import Crew
from search.file_leases import FileLeases
leases = FileLeases(StudiesFolder(Path(sys.argv[1])).study("tiny"))
with Crew(leases, device="cpu", grace_s=float(sys.argv[2])) as crew:
    with leases.lock():
        hold = crew.take(int(sys.argv[3]))
        if sys.argv[4] == "in the lock":
            print(crew.me.id, flush=True)
            time.sleep(60)
    print(crew.me.id, flush=True)  # without the lock: whoever is stopped now keeps nobody waiting
    for line in sys.stdin:  # asked to act
        told = "mine"
        try:
            with hold.acting():
                pass
        except Exception as error:
            told = type(error).__name__
        print(told, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudiesFolder(tmp_path).study("tiny")


@contextmanager
def member(
    folder: StudyFolder, *, grace_s: float = 60, trial: int = 0, where: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker in a process of its own that runs a trial; and its id."""
    command = [sys.executable, "-c", MEMBER, str(folder.root.parent), str(grace_s), str(trial), where]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def act(process: subprocess.Popen[str]) -> str:
    """Lets a member act as the owner of its trial; what came of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("act\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def wait_for(what: object, *, within_s: float = 30) -> None:
    assert callable(what)
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_worker_is_known_to_be_dead_at_once(folder: StudyFolder) -> None:
    with Crew(FileLeases(folder), device="cpu") as crew, member(folder) as (process, worker):
        with crew.leases.lock():
            assert not crew.is_free(0)
        assert not crew.is_dead(worker)
        process.kill()
        process.wait()
        assert crew.is_dead(worker)
        with crew.leases.lock():
            assert crew.is_free(0)


def test_a_stopped_worker_loses_its_trial_after_the_grace_and_is_fenced_when_it_goes_on(folder: StudyFolder) -> None:
    with Crew(FileLeases(folder), device="cpu", grace_s=1) as crew, member(folder, grace_s=1) as (process, worker):
        assert act(process) == "mine"
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        wait_for(lambda: crew.is_dead(worker))
        assert time.monotonic() - begun > 0.8
        with crew.leases.lock():
            hold = crew.take(0)
        os.kill(process.pid, signal.SIGCONT)
        assert act(process) == "TakenOverError"
        with hold.acting():
            pass
        assert hold.generation == 2
        wait_for(lambda: not crew.is_dead(worker))  # alive again, and free for another trial


def test_a_worker_that_lives_is_never_taken_for_dead(folder: StudyFolder) -> None:
    with Crew(FileLeases(folder), device="cpu", grace_s=1) as crew, member(folder, grace_s=1) as (_, worker):
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert not crew.is_dead(worker)
            time.sleep(0.05)


def test_a_worker_that_was_given_a_longer_grace_is_waited_for_that_long(folder: StudyFolder) -> None:
    """On another machine the same command may have been typed with another --grace."""
    with (
        Crew(FileLeases(folder), device="cpu", grace_s=3) as patient,
        Crew(FileLeases(folder), device="cpu", grace_s=0.1) as crew,
    ):
        patient._over.set()  # its counter stands still from now on
        begun = time.monotonic()
        wait_for(lambda: crew._census.silent_s(patient.me.id) > 1)
        assert not crew.is_dead(patient.me.id)
        wait_for(lambda: crew.is_dead(patient.me.id))
        assert time.monotonic() - begun > 2.5


def test_the_lock_is_taken_from_a_process_that_was_stopped_while_it_had_it(
    folder: StudyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with member(folder, where="in the lock") as (process, _):
        os.kill(process.pid, signal.SIGSTOP)
        leases = FileLeases(folder, grace_s=0.5)
        with leases.lock():
            assert leases.holds_lock()
        assert "the study's lock stood still for 0 s and is taken from its holder" in caplog.text
        with leases.lock():  # and it works on
            pass


def test_a_process_that_lost_the_lock_notices(folder: StudyFolder) -> None:
    slow, quick = FileLeases(folder), FileLeases(folder, grace_s=0.2)
    with Crew(slow, device="cpu") as crew, slow.lock():
        hold = crew.take(3)
        other = threading.Thread(target=lambda: quick.lock().__enter__())
        other.start()
        other.join()
        assert not slow.holds_lock()
        with pytest.raises(FencedError, match="the study's lock was taken"):
            hold.check()


def test_a_lock_that_goes_from_hand_to_hand_is_taken_from_nobody(
    folder: StudyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    over = time.monotonic() + 1.5

    def hold_shortly() -> None:
        leases = FileLeases(folder, grace_s=0.3)
        while time.monotonic() < over:
            with leases.lock():
                time.sleep(0.05)

    threads = [threading.Thread(target=hold_shortly) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "stood still" not in caplog.text


def test_the_lock_may_be_taken_again_by_who_has_it(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    with leases.lock(), leases.lock():
        assert leases.holds_lock()
    assert not leases.holds_lock()


def lease() -> Lease:
    return Lease(generation=3, worker="abc", since="2026-01-01T00:00:00Z", epochs=2, deaths=1)


def test_a_lease_is_read_as_it_was_written(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    with leases.lock():
        leases.write(12, lease())
        assert leases.read(12) == lease()
        assert leases.read_leases() == {12: lease()}
        leases.remove(12)
    assert leases.read_leases() == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"generation": "3"}', '{"generation": 3}'])
def test_a_damaged_lease_is_nobodys(folder: StudyFolder, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with Crew(FileLeases(folder), device="cpu") as crew, crew.leases.lock():
        (folder.running / "trial-0000.lease").write_text(text)
        assert crew.is_free(0)
        assert crew.take(0).generation == 1
    assert "trial-0000.lease" in caplog.text


def test_a_worker_whose_name_leads_elsewhere_is_passed_over(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    stranger = Worker(id="../../x", host="", pid=1, machine=this_machine(), device="", since="")
    folder.running.mkdir(parents=True)
    (folder.running / "worker-1.json").write_text(json.dumps(dataclasses.asdict(stranger)))
    assert leases.read_workers() == {}


def test_silence_while_nobody_looked_does_not_count(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An observer that was stopped itself, or a machine that slept, must not take everybody for dead."""
    leases = FileLeases(folder)
    with Crew(leases, device="cpu") as crew:
        now = 100.0
        monkeypatch.setattr("search.crew.time.monotonic", lambda: now)
        census = Census(leases, tick_s=5)
        for now in (105.0, 110.0):  # noqa: B007 - read by the clock
            census.look()
        assert census.silent_s(crew.me.id) == 5
        now = 9999.0
        census.look()
        assert census.silent_s(crew.me.id) == 15


def test_a_worker_beats_every_few_seconds_however_long_its_grace(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.leases.MOST_BEAT_S", 0.05)
    leases = FileLeases(folder)
    with Crew(leases, device="cpu", grace_s=3600) as crew:
        wait_for(lambda: leases.read_workers()[crew.me.id].counter > 1)


def test_a_machine_elsewhere_is_judged_by_its_counter_alone(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    elsewhere = Worker(id="ab", host="far", pid=1, machine="another", device="cpu", since="")
    with Crew(leases, device="cpu") as crew:
        (folder.running / "worker-ab.json").write_text(json.dumps(dataclasses.asdict(elsewhere)))
        assert not leases.is_gone(elsewhere)
        assert not crew.is_dead("ab")
        assert not crew.is_alone()


def of_before(leases: FileLeases) -> Worker:
    """A worker of this machine before it was restarted, or of a clone of it elsewhere: both are named alike."""
    machine, _, boot = leases.machine.partition("/")
    old = f"{machine}/{boot[::-1]}x"
    return Worker(id="ab", host="here", pid=1, machine=old, device="cpu", since="", beat_s=0.1)


def test_workers_of_before_a_power_cut_are_struck_off_at_once(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    elsewhere = dataclasses.replace(of_before(leases), id="cd", machine=f"far-{leases.machine}")
    folder.running.mkdir(parents=True)
    for worker in (of_before(leases), elsewhere):
        (folder.running / f"worker-{worker.id}.json").write_text(json.dumps(dataclasses.asdict(worker)))
    with Crew(leases, device="cpu") as crew:
        assert set(leases.read_workers()) == {crew.me.id, "cd"}


def test_a_worker_that_looks_for_those_of_clones_beats_itself(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    leases.enlist(of_before(leases))
    seen: list[int] = []

    class Looking(Crew):
        def _sweep(self) -> None:
            until = time.monotonic() + 10
            while not seen or not seen[-1]:
                assert time.monotonic() < until
                entry = self.leases.read_worker(self.me.id)
                seen.append(entry.counter if entry else 0)
                time.sleep(0.02)

    with Looking(leases, device="none", grace_s=0.6):
        assert seen[-1] > 0


def test_a_worker_of_a_clone_of_this_machine_is_alive_as_long_as_it_beats(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = FileLeases(folder)
    clone = of_before(leases)
    leases.enlist(clone)

    def beat_meanwhile(seconds: float) -> None:
        assert seconds == pytest.approx(0.24), "two beats, and some more"
        leases.beat(dataclasses.replace(clone, counter=1))

    monkeypatch.setattr("search.crew.time.sleep", beat_meanwhile)
    with Crew(leases, device="cpu") as crew:
        assert "ab" in leases.read_workers()
        assert not crew.is_dead("ab")
        assert not crew.is_alone()


def test_a_full_disk_while_the_lock_is_signed_leaves_it_free(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    leases = FileLeases(folder)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(OSError, match="No space left"), leases.lock():
            raise AssertionError("nobody signed")
    with FileLeases(folder, grace_s=60).lock():  # at once
        pass


def test_a_waiter_that_stood_still_itself_takes_the_lock_from_nobody(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes of a terminal stop together: the holder has not had more time than the one that waits."""
    holder, waiter = FileLeases(folder), FileLeases(folder, grace_s=1)
    slept_s = itertools.chain((0.0, 9999.0), itertools.repeat(9999.0))  # between two looks at the clock
    real = time.monotonic
    with holder.lock():
        monkeypatch.setattr("search.file_leases.time.monotonic", lambda: real() + next(slept_s))
        got = threading.Thread(target=lambda: waiter.lock().__enter__())
        got.start()
        got.join(timeout=0.5)  # half its grace
        assert got.is_alive()
        assert holder.holds_lock()
    got.join()


def test_a_life_that_could_not_be_taken_up_again_is_taken_up_by_the_next_beat(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: filelock.FileLock, timeout: float) -> None:
        raise OSError(errno.EIO, "Input/output error")

    lives = Lives(folder.running)
    lives.begin("ab")
    (folder.running / "worker-ab.lock").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("filelock.FileLock.acquire", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                lives.go_on("ab")
    lives.go_on("ab")
    assert not Lives(folder.running).has_ended("ab")
    lives.end("ab")
    assert Lives(folder.running).has_ended("ab")


def test_an_error_of_one_that_lost_the_lock_is_a_consequence_of_that(folder: StudyFolder) -> None:
    slow, quick = FileLeases(folder), FileLeases(folder, grace_s=0.2)

    def lose_and_stumble() -> None:
        other = threading.Thread(target=lambda: quick.lock().__enter__())
        other.start()
        other.join()
        raise ValueError("Cannot tell a COMPLETE trial.")

    with Crew(slow, device="cpu") as crew:
        with pytest.raises(FencedError, match="the study's lock was taken"), crew.acting():
            lose_and_stumble()
    with Crew(FileLeases(folder), device="cpu") as crew:
        with pytest.raises(ValueError, match="a defect"), crew.acting():
            raise ValueError("a defect")


def test_a_parent_that_stands_still_on_this_machine_is_waited_for(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    with (
        Crew(FileLeases(folder), device="none", grace_s=0.5) as parent,
        Crew(leases, device="cpu", parent=parent.me.id, grace_s=0.5) as child,
    ):
        parent._over.set()  # its counter stands still from now on
        wait_for(lambda: child.is_dead(parent.me.id))
        assert not child.is_abandoned()


def test_who_leaves_leaves_nothing(folder: StudyFolder) -> None:
    with Crew(FileLeases(folder), device="cpu") as crew:
        assert crew.is_alone()
        assert [file.name for file in folder.running.glob("worker-*.json")] == [f"worker-{crew.me.id}.json"]
    assert list(folder.running.iterdir()) == []


def test_a_worker_ends_with_the_one_that_started_it(folder: StudyFolder) -> None:
    leases = FileLeases(folder)
    with (
        Crew(FileLeases(folder), device="none") as parent,
        Crew(leases, device="cpu", parent=parent.me.id) as child,
    ):
        assert not child.is_abandoned()
        parent.leave()
        time.sleep(0.6)
        assert child.is_abandoned()
