"""Disks that are full, read-only or somebody else's: one sentence, nothing lost, and the same command goes on later.

The disks are real: small ones in memory (tmpfs), which only root may mount; without that right the tests skip.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from core import cli
from core.artifacts import StudiesFolder
from core.cache import CACHE_VARIABLE
from core.demo import write_demo
from search.run import build_parser, main
from search.storage import open_storage

ROOT = Path(__file__).parents[1]
SMALL = ["--arch", "test_efficientnet", "--image-size", "32", "--weights", "none", "--device", "cpu", "--epochs", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=80, width=48, height=36, workers=1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path, *, but: int = 0) -> Iterator[None]:
    """Fills the disk of a folder, but for some bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - but)))
    try:
        yield
    finally:
        filler.unlink()


def search(*arguments: object) -> int:
    return cli.run(main, build_parser(), [*SMALL, *map(str, arguments)])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of what stands on stderr, which is an error's only one."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert not [line for line in lines if "Traceback" in line]
    assert sum(": error: " in line for line in lines) == 1
    return lines[-1]


def finished(studies: Path) -> list[int]:
    """Trials that the folder and the journal both hold as complete."""
    folder = StudiesFolder(studies)
    study = optuna.load_study(study_name="demo-test_efficientnet", storage=open_storage(folder))
    complete = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    records = folder.study("demo-test_efficientnet").read_trials()
    assert {record.number for record in records} <= complete
    assert all(record.val_probs().shape[1] == 7 for record in records)
    return [record.number for record in records]


@pytest.mark.parametrize("left", [0, 200_000])
def test_a_search_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    images: Path, disk: Path, capsys: pytest.CaptureFixture[str], left: int
) -> None:
    studies = disk / "studies"
    command = ["--data", images, "--studies", studies]
    assert search(*command, "--trials", 1) == 0
    capsys.readouterr()

    with filled(disk, but=left):
        assert search(*command, "--trials", 60) == 2
        assert "No space left on device" in sentence(capsys)
        before = finished(studies)
        assert before[0] == 0

    assert search(*command, "--trials", before[-1] + 2) == 0
    assert set(before) < set(finished(studies))


def test_a_cache_without_room_is_refused_and_other_settings_may_follow(
    images: Path, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(disk / "cache"))

    with filled(disk, but=100_000):
        assert search("--data", images, "--studies", tmp_path / "studies", "--trials", 1) == 2
    assert "DERMATUNE_CACHE" in sentence(capsys)

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    assert search("--data", images, "--studies", tmp_path / "studies", "--trials", 1, "--image-size", 33) == 0


def test_a_read_only_disk_is_refused(images: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    assert search("--data", images, "--studies", disk / "studies", "--trials", 1) == 2
    assert "Read-only file system" in sentence(capsys)


def command(*arguments: object, cache: Path, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a command of ours in a process of its own, perhaps through another program."""
    return subprocess.run(
        [*through, sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, CACHE_VARIABLE: str(cache)},
    )


@pytest.mark.parametrize(
    "arguments",
    [("core.datasets", "IMAGES", "--fix", "DISK/images/cleaned.csv"), ("core.demo", "DISK/demo")],
    ids=["fix", "demo"],
)
def test_other_commands_on_a_full_disk_leave_nothing_behind(disk: Path, arguments: tuple[str, ...]) -> None:
    images = write_demo(disk / "images", images=60, width=48, height=36, workers=1)
    places = {"IMAGES": str(images)}
    words = [places.get(word, word.replace("DISK", str(disk))) for word in arguments]
    before = {path for path in disk.rglob("*")}

    with tempfile.TemporaryDirectory() as cache, filled(disk):
        done = command(*words, cache=Path(cache))

    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path for path in disk.rglob("*")} == before


def test_a_folder_without_the_right_to_write_is_refused(images: Path, tmp_path: Path) -> None:
    """Root may write anywhere, and has to lay that right down first."""
    rights = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    if rights and shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and setpriv is not installed")
    studies = tmp_path / "studies"
    studies.mkdir(mode=0o555)

    asked = ("search.run", *SMALL, "--data", images, "--studies", studies, "--trials", 1)
    done = command(*asked, cache=tmp_path / "cache", through=rights)

    assert done.returncode == 2, done.stderr
    expected = f"`--studies` must be a folder that can be written to, but {studies} is not (Permission denied)."
    assert expected in done.stderr.strip().splitlines()[-1]
    assert not list(studies.iterdir())
