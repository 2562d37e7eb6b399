"""Every kind of file that people have as images, through both readers: it works, or is refused with its reason."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from core.framing import Frame
from core.images import load_image
from core.inspection import inspect_image
from core.jpeg import count_scans
from tests.fixtures import hostile
from tests.fixtures.images import draw_image

RED, GREEN = (255, 0, 0), (0, 255, 0)
ROOT = Path(__file__).parents[2]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Interrupts what hangs, a wait in the system included."""

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path, reason: str) -> None:
    with at_most(20):
        report = inspect_image(path)
        assert report.problem is not None
        assert reason in report.problem
        assert (report.phash, report.width, report.height) == ("", 0, 0)
        with pytest.raises(
            InputError, match=r"^An image must be readable, but .* Replace it or leave it out\.$"
        ) as told:
            load_image(path, Frame(16, "centre"))
    assert f"{path} is not ({report.problem})" in str(told.value)


def save_animation(path: Path) -> None:
    red, green = (Image.new("RGB", (24, 16), colour) for colour in (RED, GREEN))
    red.save(path, save_all=True, append_images=[green, red], duration=40, loop=0)


def save_half_transparent_palette(path: Path) -> None:
    image = Image.new("P", (24, 16), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(path, transparency=0)


def save_grey_16_bit(path: Path) -> None:
    Image.fromarray(np.full((16, 24), 0x8080, np.uint16)).save(path)


def save_progressive(path: Path) -> None:
    draw_image(1, (240, 160)).save(path, progressive=True, quality=90)


WORKS: dict[str, tuple[Callable[[Path], object], tuple[int, int, int] | None]] = {
    "animated.gif": (save_animation, RED),
    "animated.webp": (save_animation, RED),
    "animated.png": (save_animation, RED),
    "alpha.png": (lambda path: Image.new("RGBA", (24, 16), (*GREEN, 0)).save(path), (255, 255, 255)),
    "palette.png": (save_half_transparent_palette, RED),
    "grey16.png": (save_grey_16_bit, (128, 128, 128)),
    "grey16.tif": (save_grey_16_bit, (128, 128, 128)),
    "cmyk.jpg": (lambda path: Image.new("CMYK", (24, 16), (0, 255, 255, 0)).save(path), RED),
    "progressive.jpg": (save_progressive, None),
    "gif of a million frames.jpg": (lambda path: path.write_bytes(hostile.gif_of_many_frames(1_000_000)), RED),
    "thin.png": (lambda path: Image.new("RGB", (1, 5000), RED).save(path), RED),
    "flat.jpg": (lambda path: Image.new("RGB", (5000, 1), RED).save(path), RED),
    "one pixel.bmp": (lambda path: Image.new("RGB", (1, 1), RED).save(path), RED),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_people_have_works(tmp_path: Path, name: str) -> None:
    write, colour = WORKS[name]
    write(tmp_path / name)
    with at_most(20):
        report = inspect_image(tmp_path / name)
        pixels = load_image(tmp_path / name, Frame(16, "centre"))
    assert report.problem is None
    assert report.width * report.height > 0
    assert len(report.phash) == 32
    if colour is not None:
        assert np.abs(pixels.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_as_upright_for_its_hash_as_for_its_pixels(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = draw_image(1, (48, 32))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    stored.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    turned, expected = (inspect_image(tmp_path / name) for name in ("turned.png", "upright.png"))
    assert (turned.phash, turned.width, turned.height) == (expected.phash, 48, 32)
    turned, upright = (load_image(tmp_path / f"{name}.png", Frame(16, "centre")) for name in ("turned", "upright"))
    assert np.array_equal(turned, upright)


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"not an image, though it is called one", "not an image"),
    "page.png": (b"<!doctype html><html><body>404 Not Found</body></html>", "not an image"),
    "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not an image"),
    "link.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not an image"),
    "wide.png": (hostile.png(70_000, 1), "70000 x 1 pixels, more than 65,535 a side"),
    "metadata only.jpg": (b"\xff\xd8\xff\xd9", "not an image"),
    "header only.png": (hostile.PNG_SIGNATURE, "not an image"),
    "scans.jpg": (hostile.jpeg_of_many_scans(9000, 9000, 5000), "5,000 scans, more than 100"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, reason)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_jpeg_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.jpg"
    draw_image(1, (240, 160)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, "truncated" if share > 0.3 else "")


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png": (hostile.png_bomb, "400,000,000 pixels, more than 89,478,485"),
    "tiff": (hostile.tiff_bomb, "400,000,000 pixels, more than 89,478,485"),
    "zTXt": (lambda: hostile.png_metadata_bomb(b"zTXt"), "damaged"),
    "iTXt": (lambda: hostile.png_metadata_bomb(b"iTXt"), "damaged"),
    "iCCP": (lambda: hostile.png_metadata_bomb(b"iCCP"), "damaged"),
}
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from core.framing import Frame
from core.images import load_image
from core.inspection import inspect_image
import imagehash
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
inspect_image(Path(sys.argv[1]))
before, start, problems = peak(), time.process_time(), []
for name in sys.argv[2:]:
    problems.append(inspect_image(Path(name)).problem)
    try:
        load_image(Path(name), Frame(16, "centre"))
        problems.append(None)
    except ValueError as error:
        problems.append(str(error))
print(json.dumps({"problems": problems, "megabytes": peak() - before, "seconds": time.process_time() - start}))
"""


def test_bombs_are_refused_fast_and_without_unfolding_them(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    files = [tmp_path / f"{name}.png" for name in BOMBS]
    for file, (make, _) in zip(files, BOMBS.values(), strict=True):
        file.write_bytes(make())
        assert file.stat().st_size < 1 << 19
    # in a process of its own, because a peak of memory is never forgotten
    command = [sys.executable, "-c", MEASURE, tmp_path / "good.png", *files]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout)
    for number, (_, reason) in enumerate(BOMBS.values()):
        assert all(reason in problem for problem in told["problems"][2 * number : 2 * number + 2])
    assert told["megabytes"] < 40  # the pixels alone would take 400, the metadata 256
    assert told["seconds"] < 2


def test_a_file_of_a_terabyte_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    refused(path, "1,048,576 MB, more than 1,024")


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    start = time.monotonic()
    refused(tmp_path / "pipe.jpg", "not a regular file")
    assert time.monotonic() - start < 5


def test_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    refused(tmp_path / "zeros.jpg", "not a regular file")


def test_a_folder_and_links_to_nowhere_are_refused_with_the_systems_words(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    refused(tmp_path / "folder.jpg", "Is a directory")
    refused(tmp_path / "loop.jpg", "Too many levels of symbolic links")
    refused(tmp_path / "gone.jpg", "No such file or directory")


def test_a_file_that_nobody_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    draw_image(1).save(path)
    path.chmod(0)
    code = "import sys; from core.inspection import *; print(inspect_image(Path(sys.argv[1])).problem)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            preexec_fn=hostile.without_rights,
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"root can't give up its rights here: {error}")
    assert done.stdout.strip() == "Permission denied"


def test_scans_are_counted_as_a_decoder_meets_them(tmp_path: Path) -> None:
    image = draw_image(1, (240, 160))
    counts = {}
    for name, options in {"plain": {}, "progressive": {"progressive": True}, "grey": {"progressive": True}}.items():
        path = tmp_path / f"{name}.jpg"
        (image.convert("L") if name == "grey" else image).save(path, **options)
        counts[name] = count_scans(path.read_bytes())
        # what follows the image, as in films that phones append, isn't looked at
        assert count_scans(path.read_bytes() + b"\xff\xda" * 999) == counts[name]
    assert counts == {"plain": 1, "progressive": 10, "grey": 6}


def test_a_thumbnail_within_a_jpeg_counts_for_nothing(tmp_path: Path) -> None:
    inner = hostile.jpeg_of_many_scans(8, 8, 200)
    exif = Image.Exif()
    exif[0x010E] = inner
    path = tmp_path / "photo.jpg"
    draw_image(1).save(path, exif=exif, progressive=True)
    assert inner in path.read_bytes()
    assert count_scans(path.read_bytes()) == 10
    assert inspect_image(path).problem is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xda", b"\xff\xc2\0", b"\xff\xc2\0\x0b", b"\xff" * 99])
def test_the_stump_of_a_jpeg_has_its_scans_counted_too(content: bytes) -> None:
    assert count_scans(content) <= 1
