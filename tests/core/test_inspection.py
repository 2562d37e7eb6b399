import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import inspection
from core.cache import cache_folder
from core.inspection import inspect_image, inspect_images


def noise(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    return [noise(tmp_path / "images" / f"{seed}.png", seed) for seed in range(4)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really inspected from here on."""
    names: list[str] = []
    original = inspection.inspect_image

    def counting(path: Path) -> inspection.ImageReport:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(inspection, "inspect_image", counting)
    return names


def test_a_report_holds_hash_and_size(files: list[Path]) -> None:
    report = inspect_image(files[0])

    assert report.sha256 == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert (report.width, report.height, report.problem) == (16, 12, None)
    assert len(bytes.fromhex(report.phash)) == 16


def test_the_hash_survives_recompression(files: list[Path], tmp_path: Path) -> None:
    image = Image.open(files[0]).resize((160, 120), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.jpg", quality=60)
    first, second = (int(inspect_image(tmp_path / name).phash, 16) for name in ("a.png", "a.jpg"))

    assert (first ^ second).bit_count() <= 4


@pytest.mark.parametrize(("content", "problem"), [(b"", "empty file"), (b"text", "not an image")])
def test_a_bad_file_is_reported_not_raised(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)

    assert inspect_image(tmp_path / "a.jpg").problem == problem


def test_reports_come_in_the_order_of_the_paths(files: list[Path]) -> None:
    order = [files[2], files[0], files[3]]

    assert inspect_images(order) == [inspect_image(path) for path in order]


def test_processes_report_the_same(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_WORTH_PROCESSES", 1)

    assert inspect_images(files, workers=2) == [inspect_image(path) for path in files]


def test_known_files_are_not_read_again(files: list[Path], decoded: list[str]) -> None:
    first = inspect_images(files[:3])
    again = inspect_images(files)

    assert again[:3] == first
    assert decoded == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_changed_file_is_read_again(files: list[Path], decoded: list[str], change: str) -> None:
    inspect_images(files)
    decoded.clear()
    if change == "content":
        noise(files[1], 99)
    os.utime(files[1], ns=(1, 1))

    reports = inspect_images(files)

    assert decoded == ["1.png"]
    assert reports[1].sha256 == hashlib.sha256(files[1].read_bytes()).hexdigest()


def test_another_image_of_equal_size_and_time_is_noticed(files: list[Path], decoded: list[str]) -> None:
    """As `cp -p` puts it in the place of an uncompressed one."""
    first, second = (file.with_suffix(".bmp") for file in files[:2])
    for seed, path in enumerate((first, second)):
        noise(path, seed)
    inspect_images([first])
    before = os.stat(first)
    while os.stat(first).st_ctime_ns == before.st_ctime_ns:  # the clock of files goes in steps of milliseconds
        first.write_bytes(second.read_bytes())
        os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(first).st_size, os.stat(first).st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    assert inspect_images([first])[0].sha256 == hashlib.sha256(second.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", ["", "[]", '{"0.png": [1, 2]}', '{"0.png"', '{"0.png": [1,2,3,4,5,6,7]}'])
def test_a_damaged_memory_is_replaced(
    files: list[Path], decoded: list[str], content: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = inspect_images(files)
    (memory,) = cache_folder("inspected").iterdir()
    memory.write_text(content)
    decoded.clear()

    assert inspect_images(files) == expected
    assert len(decoded) == len(files)
    assert "is damaged" in caplog.text


def test_what_was_found_before_an_interruption_is_kept(
    files: list[Path], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = inspection.inspect_image

    def interrupted(path: Path) -> inspection.ImageReport:
        if path.name == "2.png":
            raise KeyboardInterrupt
        return counting(path)

    monkeypatch.setattr(inspection, "inspect_image", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        inspect_images(files)
    monkeypatch.setattr(inspection, "inspect_image", counting)
    decoded.clear()
    inspect_images(files)

    assert decoded == ["2.png", "3.png"]


def test_a_file_that_cannot_be_read_is_tried_again(files: list[Path], decoded: list[str]) -> None:
    missing = files[0].with_name("later.png")

    assert inspect_images([missing])[0].problem == "No such file or directory"
    noise(missing, 5)
    assert inspect_images([missing])[0].problem is None
