"""Studies in a real PostgreSQL server, with trials at a URL: as safe as in a folder."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from core.artifacts import StudiesFolder, StudyFolder
from core.cli import without_password
from core.errors import InputError, LostError
from core.mirror import MirroredStudies, open_studies
from ensemble.build import main as build
from search.clean import build_parser as clean_parser
from search.clean import main as clean
from search.crew import Crew, FencedError
from search.database import open_database, parse_url, shown
from search.database_leases import DatabaseLeases
from search.leases import Lease, Worker
from search.status import build_parser as status_parser
from search.status import main as show_status
from search.storage import dashboard_storage, read_storage
from tests.postgres import Server, server
from tests.search.test_run import search
from tests.search.test_workers import NAME, start, wait_for

# A process that takes part in a study, and does what it is told.
MEMBER = """
import sys, time
from search.crew import Crew
from search.database_leases import DatabaseLeases
leases = DatabaseLeases(sys.argv[1], "tiny")
with Crew(leases, device="cpu", grace_s=float(sys.argv[2])) as crew:
    with leases.lock():
        crew.take(3)
        if sys.argv[3] == "locked":
            print(crew.me.id, flush=True)
            time.sleep(600)
    print(crew.me.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def url(database: Server) -> Iterator[str]:
    yield database.url
    for key in ("workers", "leases"):
        leases = DatabaseLeases(database.url, "tiny")
        leases._run(f"DELETE FROM dermatune_{key} WHERE study = :study")


@contextmanager
def member(url: str, *, grace_s: float = 60, how: str = "free") -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-c", MEMBER, url, str(grace_s), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_worker_that_is_killed_is_dead_at_once_and_its_trial_is_free(url: str) -> None:
    with Crew(DatabaseLeases(url, "tiny"), device="cpu") as crew, member(url) as (process, worker):
        with crew.leases.lock():
            assert not crew.is_dead(worker)
            assert not crew.is_free(3)
        process.kill()
        process.wait()
        with crew.leases.lock():
            assert crew.is_dead(worker)
            assert crew.is_free(3)
            assert crew.take(3).generation == 2


def test_a_worker_that_stands_still_loses_its_trial_and_is_fenced(url: str) -> None:
    leases = DatabaseLeases(url, "tiny")
    with Crew(leases, device="cpu", grace_s=1) as sleeper, Crew(leases, device="cpu", grace_s=1) as crew:
        with leases.lock():
            hold = sleeper.take(5)
        sleeper._over.set()  # its counter stands still from now on
        deadline = time.monotonic() + 30
        while not crew.is_dead(sleeper.me.id):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with leases.lock():
            crew.take(5)
        with pytest.raises(FencedError), hold.acting():
            pass
        hold.give_back()
        assert leases.read(5).worker == crew.me.id  # type: ignore[union-attr]


def test_the_lock_is_free_once_its_holder_is_killed(url: str) -> None:
    with member(url, how="locked") as (process, _):
        process.kill()
        with DatabaseLeases(url, "tiny").lock():
            pass


def test_the_lock_is_taken_from_a_holder_that_is_stopped(url: str) -> None:
    with member(url, how="locked") as (process, _):
        process.send_signal(signal.SIGSTOP)
        leases = DatabaseLeases(url, "tiny", grace_s=0.5)
        with leases.lock():
            assert leases.holds_lock()
        assert not leases.holds_lock()


def test_a_holder_whose_connection_was_ended_knows_it(url: str) -> None:
    slow, quick = DatabaseLeases(url, "tiny"), DatabaseLeases(url, "tiny", grace_s=0.2)
    with slow.lock():
        assert slow.holds_lock()
        with quick.lock():
            assert not slow.holds_lock()
            assert quick.holds_lock()
    with slow.lock():
        assert slow.holds_lock()


def test_a_lock_that_goes_from_hand_to_hand_is_taken_from_nobody(url: str) -> None:
    counts = {"held": 0, "lost": 0}

    def work() -> None:
        leases = DatabaseLeases(url, "tiny", grace_s=0.3)
        for _ in range(5):
            with leases.lock():
                time.sleep(0.05)
                counts["held" if leases.holds_lock() else "lost"] += 1

    threads = [threading.Thread(target=work) for _ in range(8)]  # each waits longer than the grace for its turn
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"held": 40, "lost": 0}


def test_names_from_the_database_lead_to_no_files(url: str) -> None:
    leases = DatabaseLeases(url, "tiny")
    stranger = Worker(id="../../x", host="", pid=1, machine=leases.machine, device="", since="")
    leases._put("dermatune_workers", "id", stranger.id, stranger)
    assert leases.read_workers() == {}


def test_a_search_outlives_its_killed_workers_and_its_database(
    database: Server, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two commands on machines that share no folder: each has a cache of its own, and trials lie at a URL."""
    remote = f"file://{tmp_path}/bucket/studies"
    words = ("--storage", database.url, "--epochs", 20, "--trials", 2, "--grace", 3)
    leases = DatabaseLeases(database.url, NAME)

    def elsewhere(machine: str) -> "subprocess.Popen[str]":
        os.environ["DERMATUNE_CACHE"] = str(tmp_path / machine)
        return start(images, remote, *words)  # type: ignore[arg-type]

    def far_from_their_end() -> list[Lease]:
        """Leases of trials that have half of their epochs to go, once both workers are there."""
        if len(leases.read_workers()) < 2:
            return []
        trials = optuna.load_study(storage=open_database(database.url), study_name=NAME).trials
        begun = {trial.number for trial in trials if len(trial.intermediate_values) < 10}
        return [lease for number, lease in leases.read_leases().items() if number in begun]

    before = os.environ["DERMATUNE_CACHE"]
    try:
        with elsewhere("one") as first, elsewhere("two") as second:
            bucket = tmp_path / "bucket" / "studies" / NAME
            found: list[Lease] = []
            wait_for(lambda: found.extend(far_from_their_end()) or found, first)
            owner = leases.read_workers()[found[0].worker]
            os.kill(owner.pid, signal.SIGKILL)
            time.sleep(1)
            database.stop()
            database.start()
            outputs = [process.communicate(timeout=300) for process in (first, second)]
        survivor = int(owner.pid == first.pid)
        assert (first, second)[survivor].returncode == 0, outputs[survivor]
    finally:
        os.environ["DERMATUNE_CACHE"] = before

    study = optuna.load_study(storage=open_database(database.url), study_name=NAME)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    records = open_studies(remote).study(NAME).read_trials()  # fetched by a third machine
    assert [(record.number, len(record.history())) for record in records] == [(0, 20), (1, 20)]
    assert max(record.generation for record in records) == 2
    assert not list(bucket.glob("running/*"))
    assert len(list(bucket.glob("trial-*/*/model.safetensors"))) == 2

    place = [remote, "--storage", database.url]
    assert show_status(status_parser().parse_args([*place, "--json"])) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts[0]["trials"]["finished"] == 2
    leases.write(0, Lease(generation=1, worker="", since="", epochs=0, deaths=0))
    assert clean(clean_parser().parse_args(place)) == 0
    assert "leases of finished trials" in capsys.readouterr().out
    assert leases.leased() == []

    openings = [line for _ in range(2) for line in _build(remote, capsys) if "opening the test split" in line]
    assert [re.search(r"the (\w+) time", line)[1] for line in openings] == ["1st", "2nd"]  # type: ignore[index]
    assert (bucket.parent / "ensemble" / "report.html").is_file()
    pictures = {file.name for file in (bucket.parent / "artifacts").iterdir()}
    assert len(pictures) == 4


def test_a_checkpoint_is_sent_while_its_trial_runs_and_found_by_the_next_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = f"file://{tmp_path}/bucket"
    study = open_studies(remote).study("a")
    own = study.inherit_checkpoint(3, 1)
    assert not own.exists()
    with study.sharing(own):
        own.parent.mkdir(parents=True)
        own.write_text("epoch 1")
        sent = tmp_path / "bucket" / "a" / "running" / own.name
        deadline = time.monotonic() + 30
        while not sent.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        own.write_text("epoch 2")
    assert sent.read_text() == "epoch 2"

    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "another machine"))
    there = open_studies(remote).study("a")
    assert there.inherit_checkpoint(3, 3).read_text() == "epoch 2"
    assert there.checkpoint_sizes() == {3: 7}
    there.drop_checkpoints(3)
    assert not sent.exists()
    assert there.checkpoint_sizes() == {}


def _build(remote: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert build([remote, "--device", "cpu"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_only_the_best_keep_their_weights_at_the_url(database: Server, images: Path, tmp_path: Path) -> None:
    remote = f"file://{tmp_path}/bucket"
    words = ("--storage", database.url, "--study", "keep", "--epochs", 2, "--trials", 3, "--keep", 1)
    with start(images, remote, *words) as process:  # type: ignore[arg-type]
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"python -m ensemble.build {remote}" in output
    assert "optuna-dashboard postgresql+psycopg://tests@" in output
    study = open_studies(remote, with_models=True).study("keep")
    assert [trial.has_model for trial in study.read_trials()].count(True) == 1
    assert len(list((tmp_path / "bucket" / "keep").glob("trial-*/*/model.safetensors"))) == 1


def test_a_copy_forgets_what_is_gone_at_the_url(tmp_path: Path) -> None:
    remote = f"file://{tmp_path}/bucket"
    study = open_studies(remote).study("a")
    study.write_study({"created": "once"}, [{"image": "i", "label": "l", "group": "g", "split": "val"}])
    assert study.exists
    (tmp_path / "bucket" / "a" / "study.json").unlink()
    assert not open_studies(remote).study("a").exists
    assert open_studies(remote).read_studies() == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--storage", "sqlite:///a.db"), "`--storage` must be a database of PostgreSQL"),
        (("--storage", "nonsense"), "`--storage` must be a database of PostgreSQL"),
        (("--storage", "postgresql://u:secret@host:notaport/x"), "HOST:PORT/NAME (PORT a number, @ in a "),
        (("--storage", "postgresql://u:my@secret@host/x"), "but got --storage postgresql:***. Leave it out"),
        (("--storage", "postgresql://anna:secret/x"), "but got --storage postgresql:***. Leave it out"),
        (("--storage", "postgresql:/u:secret@host/x"), "`--storage` must be a database of PostgreSQL"),
        (("--storage", "postgresql://host:one/x?password=secret"), "but got --storage postgresql:***. Leave it out"),
        (("--storage", "postgresql://u:secret@127.0.0.1:1/x"), "but postgresql://u:***@127.0.0.1:1/x is not ("),
        (("--studies", "file:///tmp/x"), "`--studies` must be a folder unless --storage names a database"),
        (
            ("--studies", "gopher://x/y", "--storage", "postgresql://u@127.0.0.1:1/x"),
            "`--studies` must be a folder or a URL that fsspec can open, but got --studies gopher://x/y (",
        ),
    ],
)
def test_places_that_cannot_be_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    common = ("--arch", "test_efficientnet", "--image-size", 32, "--weights", "none", "--device", "cpu")
    studies = () if "--studies" in words else ("--studies", tmp_path / "studies")
    assert search(*common, "--data", images, "--trials", 1, *studies, *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("INFO")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "secret" not in lines[0]


def test_passwords_are_never_written_down() -> None:
    url = "postgresql://me:secret@host/db"
    assert "secret" not in shown(url)
    assert without_password(url) == "postgresql://me:***@host/db"
    assert without_password(f"--storage={url}") == "--storage=postgresql://me:***@host/db"
    named = "postgresql://me@host/db?sslpassword=secret&password=secret2&connect_timeout=3"
    assert "secret" not in shown(named)
    assert without_password(named) == "postgresql://me@host/db?sslpassword=***&password=***&connect_timeout=3"
    assert dashboard_storage(StudiesFolder(Path("studies")), named).endswith("://me@host/db?connect_timeout=3")
    assert without_password("s3://bucket/a@b") == "s3://bucket/a@b"


def test_a_copy_is_found_again_in_another_process(tmp_path: Path) -> None:
    studies = MirroredStudies(f"file://{tmp_path}/bucket", with_models=True)
    reopen, arguments = studies.__reduce__()
    again = reopen(*arguments)
    assert (again.root, again.place) == (studies.root, studies.place)


def test_the_newest_checkpoint_counts_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def own(machine: str, generation: int) -> tuple[StudyFolder, Path]:
        monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / machine))
        study = open_studies(f"file://{tmp_path}/bucket").study("a")
        return study, study.inherit_checkpoint(3, generation)

    for machine, generation, before in (("one", 1, ""), ("other", 2, "1"), ("one", 3, "2"), ("one", 4, "3")):
        study, file = own(machine, generation)
        assert (file.read_text() if file.exists() else "") == before
        with study.sharing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(generation))


def test_strange_names_at_a_url_are_passed_over(tmp_path: Path) -> None:
    study = open_studies(f"file://{tmp_path}/bucket").study("a")
    folder = tmp_path / "bucket" / "a"
    for name in ("trial-0003-old/complete.json", "running/trial-old.safetensors"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    assert study.read_trials() == []
    assert study.checkpoint_sizes() == {}


@pytest.mark.parametrize("content", ["{half", "{}"])
def test_a_damaged_trial_at_a_url_is_named(tmp_path: Path, content: str) -> None:
    study = open_studies(f"file://{tmp_path}/bucket").study("a")
    file = tmp_path / "bucket" / "a" / "trial-0004" / "complete.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(InputError, match=rf"^file://{re.escape(str(file))} must .*Restore it or remove its folder\.$"):
        study.read_trials()


@pytest.mark.parametrize("url", ["file:///bucket/run[1]", "file:///bucket/a*", "memory://bucket/run[1]"])
def test_a_url_that_is_a_pattern_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"must have none of \* \? \[ in the path of a URL, but got --studies"):
        open_studies(url)


def test_a_standby_is_waited_for_until_it_can_be_written_to(database: Server) -> None:
    url = f"{database.url}?application_name=standby"
    storage, leases = open_database(url), DatabaseLeases(url, "tiny")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    admin = sqlalchemy.create_engine(parse_url(database.url), isolation_level="AUTOCOMMIT")

    def run(*statements: str) -> None:
        with admin.connect() as connection:
            for statement in ("SET default_transaction_read_only = off", *statements):
                connection.execute(sqlalchemy.text(statement))

    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'standby'"
    run("ALTER DATABASE postgres SET default_transaction_read_only = on", end)
    try:
        for write in (lambda: trial.report(0.5, 0), lambda: leases.remove(3)):
            with pytest.raises(LostError, match=r"can be written to, but .* is not now \(cannot execute .* read-only"):
                write()
    finally:
        run("ALTER DATABASE postgres RESET default_transaction_read_only")  # and leaves the connections as they are
        admin.dispose()
    trial.report(0.5, 0)
    leases.remove(3)
    assert study.trials[0].intermediate_values == {0: 0.5}


def test_who_only_reads_makes_no_tables_and_needs_no_right_to(database: Server, tmp_path: Path) -> None:
    open_database(database.url)
    admin = sqlalchemy.create_engine(parse_url(database.url), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for statement in ("CREATE DATABASE hospital", "CREATE ROLE reader LOGIN", "GRANT pg_read_all_data TO reader"):
            connection.execute(sqlalchemy.text(statement))
    admin.dispose()

    hospital = database.url.replace("/postgres", "/hospital")
    with pytest.raises(InputError, match=r"that search\.run wrote to, but .*/hospital holds no studies"):
        read_storage(StudiesFolder(tmp_path), hospital)
    others = sqlalchemy.create_engine(parse_url(hospital))
    assert sqlalchemy.inspect(others).get_table_names() == []
    others.dispose()

    reader = database.url.replace("tests@", "reader@")
    assert "tiny" not in [study.study_name for study in read_storage(StudiesFolder(tmp_path), reader).get_all_studies()]
    assert DatabaseLeases(reader, "tiny").read_leases() == {}
