"""`search.status` and `search.clean`: what they say of a folder, and what they leave alone."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from core.artifacts import StudiesFolder
from core.cli import run
from core.mirror import MirroredStudies
from search import clean, status
from search.crew import Crew
from search.file_leases import FileLeases
from search.pictures import name_pictures
from search.place import Place
from search.storage import open_storage
from tests.search.test_run import search

SPLIT = ("image", "label", "group", "split")
NAME = "demo-test_efficientnet"
SMALL = ("--arch", "test_efficientnet", "--image-size", 32, "--weights", "none", "--device", "cpu", "--epochs", 2)


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = tmp_path_factory.mktemp("status") / "studies"
    assert search(*SMALL, "--data", images, "--studies", studies, "--trials", 2) == 0
    return studies


@pytest.fixture
def studies(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "studies"))


def show_status(*words: object) -> int:
    return run(status.main, status.build_parser(), [str(word) for word in words])


def tidy(*words: object) -> int:
    return run(clean.main, clean.build_parser(), [str(word) for word in words])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_status_tells_how_a_study_stands(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(studies)
    assert show_status(studies) == 0
    output = capsys.readouterr().out
    assert f"{NAME}\n  trials    2 finished: 2 complete, 0 pruned; 0 running, 0 failed" in output
    assert re.search(
        r"^  best      trial \d: validation recall 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)$", output, re.MULTILINE
    )
    assert re.search(r"^  disk      \d+\.\d MB: \d+\.\d MB weights, 0\.0 MB checkpoints", output, re.M)
    assert "worker" not in output
    assert contents(studies) == before


def test_status_tells_who_runs_what_and_what_was_left(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.load_study(storage=open_storage(StudiesFolder(studies)), study_name=NAME)
    folder = StudiesFolder(studies).study(NAME)
    left, held = study.ask(), study.ask()
    with Crew(FileLeases(folder), device="cpu, 2 cores", goal=5) as crew:
        with crew.leases.lock():
            crew.take(held.number)
        assert show_status(studies, "--json") == 0
    [facts] = json.loads(capsys.readouterr().out)
    assert facts["trials"] == {
        "finished": 2, "goal": 5, "running": 2, "complete": 2, "pruned": 0, "fail": 0, "waiting": 0
    }  # fmt: skip
    assert [(each["trial"], each["left"], each["worker"]) for each in facts["running"]] == [
        (left.number, True, None),
        (held.number, False, crew.me.name),
    ]
    [worker] = facts["workers"]
    assert (worker["worker"], worker["state"], worker["device"]) == (crew.me.name, "alive", "cpu, 2 cores")
    # What trials took, and not the time between their first start and their end.
    assert facts["expected_s"] == pytest.approx(3 * np.mean([record.elapsed_s for record in folder.read_trials()]))
    assert show_status(studies) == 0
    assert f"trial {left.number}, 0 epochs done: left by its worker; the next one goes on with it" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("beat_s", [5.0, 300.0])  # of a grace of a minute, and of an hour
def test_a_worker_on_another_machine_is_alive_if_it_counts_on(
    studies: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, beat_s: float
) -> None:
    running = StudiesFolder(studies).study(NAME).running
    entry = {"host": "far", "pid": 7, "machine": "another", "device": "cpu", "since": "", "parent": "", "goal": 9}
    entry["beat_s"] = beat_s

    def count_on(seconds: float) -> None:
        assert seconds == 12  # time for two beats of 5 s, and some more
        (running / "worker-ab.json").write_text(json.dumps({**entry, "id": "ab", "counter": 2}))

    for worker in ("ab", "cd"):
        (running / f"worker-{worker}.json").write_text(json.dumps({**entry, "id": worker, "counter": 1}))
    monkeypatch.setattr("search.status.time.sleep", count_on)
    assert show_status(studies) == 0
    output = capsys.readouterr().out
    assert "worker    far:7, alive" in output
    assert "worker    far:7, silent" in output
    assert "2 of 9 finished" in output


def test_clean_removes_what_nothing_needs_and_nothing_else(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.load_study(storage=open_storage(StudiesFolder(studies)), study_name=NAME)
    running_trial = study.ask().number
    folder, kept = StudiesFolder(studies).study(NAME), contents(studies)
    garbage = {
        folder.running / "trial-0000.2.safetensors": "checkpoints of finished trials",
        folder.running / "trial-0001.lease": "leases of finished trials",
        folder.root / "set-aside" / "trial-0009-20260101T000000Z" / "history.csv": "folders that were not whole",
        folder.root / ".trial-0001.abc.tmp" / "config.json": "half-written files",
        studies / "artifacts" / "0000-of-nobody": "pictures of no trial",
        studies / "weights" / f"{'0' * 64}.safetensors": "first weights of no study",
    }
    needed = [folder.checkpoint_file(running_trial, 1), folder.root / ".trial-0003.def.tmp"]
    for file in (*garbage, *needed):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x" * 1000)
    long_ago = time.time() - 7200
    for old in (folder.root / ".trial-0001.abc.tmp", studies / "weights" / f"{'0' * 64}.safetensors"):
        os.utime(old, (long_ago, long_ago))
    everything = contents(studies)

    assert tidy(studies, "--dry-run") == 0
    output = capsys.readouterr().out
    assert all(what in output for what in garbage.values())
    assert output.endswith("0.0 MB can go. Nothing was removed.\n")
    assert contents(studies) == everything

    assert tidy(studies) == 0
    assert capsys.readouterr().out.endswith("0.0 MB removed.\n")
    assert contents(studies) == {**kept, **{file: file.read_bytes() for file in needed}}
    assert tidy(studies) == 0
    assert capsys.readouterr().out == "0.0 MB removed.\n"


def test_clean_leaves_pictures_that_another_storage_may_name(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, picture = studies / "other", studies / "artifacts" / "0000-of-another"
    other.mkdir()
    shutil.copy(studies / NAME / "study.json", other)
    picture.touch()
    assert tidy(studies) == 0
    assert "Pictures stay: they may be of other, of which this storage knows nothing." in capsys.readouterr().out
    assert picture.exists()


def test_clean_removes_at_the_url_what_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket, database = tmp_path / "bucket", optuna.storages.InMemoryStorage()
    studies, study = MirroredStudies(f"file://{bucket}"), optuna.create_study(storage=database, study_name="a")
    studies.study("a").write_study({"weights": {"hash": "used"}}, [dict.fromkeys(SPLIT, "")])
    studies.artifacts.mkdir(parents=True)
    named = set(name_pictures(study.ask()).values())
    for name in (*named, "of-nobody"):
        (studies.artifacts / name).touch()
    studies.sync_pictures()
    (bucket / "artifacts" / "folder-of-others").mkdir()
    (bucket / "artifacts" / "folder-of-others" / "file").touch()
    (bucket / "weights").mkdir()
    for name in ("used", "unused", "new"):
        (bucket / "weights" / f"{name}.safetensors").touch()
    os.utime(bucket / "weights" / "used.safetensors", (0, 0))
    os.utime(bucket / "weights" / "unused.safetensors", (0, 0))

    # A machine that has fetched none of it.
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "another machine"))
    place = Place(studies=MirroredStudies(studies.place), database="", storage=database)
    monkeypatch.setattr(clean, "open_place", lambda args: place)
    assert tidy(studies.place) == 0
    assert {file.name for file in (bucket / "artifacts").iterdir()} == named | {"folder-of-others"}
    assert {file.stem for file in (bucket / "weights").iterdir()} == {"used", "new"}
    output = capsys.readouterr().out
    assert " 1  pictures of no trial" in output
    assert " 1  first weights of no study" in output


def test_clean_leaves_live_workers_alone(studies: Path) -> None:
    leases = FileLeases(StudiesFolder(studies).study(NAME))
    with Crew(leases, device="cpu") as crew:
        with crew.leases.lock():
            crew.take(7)
        assert tidy(studies) == 0
        assert set(leases.read_workers()) == {crew.me.id}
        assert set(leases.read_leases()) == {7}


@pytest.mark.parametrize("command", [show_status, tidy])
def test_a_folder_without_searches_is_refused(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    assert command(tmp_path) == 2
    assert "`studies` must be a folder that search.run wrote to, but" in capsys.readouterr().err
    assert command(tmp_path / "none") == 2
    assert list(tmp_path.iterdir()) == []
