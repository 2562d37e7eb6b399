"""Disks without room, without rights and without writing: one sentence, and whatever was finished is still there."""

import csv
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.artifacts import StudiesFolder
from core.demo import main as demo
from core.demo import write_demo
from core.demo_sheet import write_demo_sheet
from core.inspection import inspect_images
from ensemble import predict
from search.storage import open_storage, open_study
from tests.fixtures.hostile import without_rights
from tests.fixtures.searches import STUDY, build_ensemble, let_trials_take_part, refused, search

ROOT = Path(__file__).parents[1]
FULL = "No space left on device"

Resize = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A disk in memory, and what sets its options, as ``size=64k``."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a disk can't be mounted here: {mounted.stderr.strip()}")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    try:
        yield place, remount
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=80, width=96, height=72, workers=1)


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studies folder with a study of two trials, without an ensemble."""
    studies = tmp_path_factory.mktemp("full") / "studies"
    assert search(images, studies, "--weights", "none") == 0
    let_trials_take_part(studies / STUDY)
    return studies


@pytest.fixture(scope="module")
def built(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an ensemble."""
    studies = shutil.copytree(searched, tmp_path_factory.mktemp("built") / "studies")
    assert build_ensemble(studies) == 0
    return studies


def fill(place: Path) -> Path:
    """Leaves no room on a disk."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


# Bytes, and sizes of a model's file: a checkpoint takes four of those, and while it is replaced eight.
@pytest.mark.parametrize(
    ("size", "models"),
    [(4096, 0), (0, 2), (0, 4.5), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((65536, 0), (0, 8.4)))],
)
def test_a_search_that_fills_its_disk_says_so_and_goes_on_once_there_is_room(
    disk: tuple[Path, Resize],
    images: Path,
    searched: Path,
    size: int,
    models: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, remount = disk
    monkeypatch.setattr("search.setup.CHECKPOINT_SHARE", math.inf)  # or epochs this short would not be worth one
    unit = (searched / STUDY / "trial-0000" / "model.safetensors").stat().st_size
    remount(f"size={size + int(models * unit)}")
    command = (images, place / "studies", "--weights", "none", "--epochs", 3, "--keep", 2)
    capsys.readouterr()
    sentence = refused(search(*command), capsys)
    assert FULL in sentence
    assert str(place) in sentence, "which disk it is"
    studies = StudiesFolder(place / "studies")
    finished = [trial.number for trial in studies.study(STUDY).read_trials()]
    assert finished == ([0] if models > 8 else [])
    remount("size=32m")
    if studies.study(STUDY).exists:
        known = open_study(open_storage(studies), STUDY).get_trials(deepcopy=False)
        assert set(finished) <= {trial.number for trial in known}
    assert search(*command) == 0
    assert [trial.number for trial in studies.study(STUDY).read_trials()] == [0, 1]
    assert not list(place.rglob(".*.tmp"))


def test_an_ensemble_that_finds_no_room_leaves_the_old_one(
    disk: tuple[Path, Resize], built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, remount = disk
    remount("size=32m")
    studies = shutil.copytree(built, place / "studies")
    before = {path: path.read_bytes() for path in (studies / "ensemble").rglob("*") if path.is_file()}
    fill(place)
    capsys.readouterr()
    assert FULL in refused(build_ensemble(studies), capsys)
    assert {path: path.read_bytes() for path in before} == before


def test_predictions_that_find_no_room_leave_what_was_there(
    disk: tuple[Path, Resize], built: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = disk
    out = place / "out.csv"
    out.write_text(yesterday := "image,predicted,p_mel\na.jpg,mel,0.5\n")
    filler = fill(place)
    capsys.readouterr()
    arguments = [str(built / "ensemble"), str(images), "--out", str(out), "--device", "cpu"]
    assert FULL in refused(predict.main(arguments), capsys)
    assert out.read_text() == yesterday
    filler.unlink()
    assert predict.main(arguments) == 0
    assert len(list(csv.DictReader(out.read_text().splitlines()))) == 80


@pytest.mark.parametrize("size", ["8k", "64k", "200k"])
def test_demo_images_that_find_no_room_leave_nothing(
    disk: tuple[Path, Resize], size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place, remount = disk
    remount(f"size={size}")
    assert FULL in refused(demo([str(place / "demo"), "--images", "42"]), capsys)
    assert not list(place.iterdir())


def test_a_contact_sheet_that_finds_no_room_is_no_cut_picture(
    disk: tuple[Path, Resize], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = disk
    sheet = place / "sheet.jpg"
    sheet.write_bytes(b"of yesterday")
    fill(place)
    with pytest.raises(OSError, match=FULL):
        write_demo_sheet(images, sheet)
    assert sheet.read_bytes() == b"of yesterday"


def test_a_disk_that_is_read_only_is_refused_by_every_command(
    disk: tuple[Path, Resize],
    built: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, remount = disk
    remount("size=32m")
    studies = shutil.copytree(built, place / "studies")
    photo = str(next(images.glob("*/*.jpg")))
    remount("ro")
    arguments = [str(studies / "ensemble"), photo, "--out", str(place / "out.csv"), "--device", "cpu"]
    capsys.readouterr()
    told = [
        refused(search(images, studies, "--weights", "none", "--trials", 3), capsys),
        refused(search(images, place / "new", "--weights", "none"), capsys),
        refused(build_ensemble(studies), capsys),
        refused(predict.main(arguments), capsys),
        refused(demo([str(place / "demo"), "--images", "42"]), capsys),
    ]
    assert all(str(place) in sentence for sentence in told), told
    monkeypatch.setenv("DERMATUNE_CACHE", str(place / "cache"))
    assert "Set DERMATUNE_CACHE" in refused(search(images, place / "new", "--weights", "none"), capsys)


def test_a_folder_that_nobody_may_write_to_is_refused_by_every_command(
    built: Path, images: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    photo = next(images.glob("*/*.jpg"))
    locked.chmod(0o555)
    common = ["--weights", "none", "--device", "cpu", "--trials", "1", "--epochs", "1", "--image-size", "32"]
    commands = [
        ["search.run", "--arch", "test_efficientnet", "--data", images, "--studies", locked / "studies", *common],
        ["ensemble.predict", built / "ensemble", photo, "--out", locked / "out.csv"],
        ["core.demo", locked / "demo", "--images", "42"],
    ]
    for command in commands:
        done = run_without_rights([sys.executable, "-m", *map(str, command)])
        assert done.returncode == 2, done.stderr
        sentence = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(sentence) == 1
        assert str(locked) in sentence[0]
        assert "Traceback" not in done.stderr
    assert not list(locked.iterdir())


def run_without_rights(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=120, preexec_fn=without_rights, check=False
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"root can't give up its rights here: {error}")


def test_a_cache_that_is_full_is_told_and_loses_nothing_that_was_there(
    disk: tuple[Path, Resize],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, _ = disk
    monkeypatch.setenv("DERMATUNE_CACHE", str(place))
    folder = images / "HAM10000_images_part_1"
    inspect_images(sorted(folder.iterdir())[:2])
    (memory,) = place.glob("inspected/*.json")
    before = memory.read_bytes()
    fill(place)
    assert FULL in refused(search(images, tmp_path / "studies", "--weights", "none"), capsys)
    assert memory.read_bytes() == before
    assert not (tmp_path / "studies").exists()
