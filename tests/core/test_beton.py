"""Every trap of FFCV 1.0.2's writer and reader on the real FFCV."""

import dataclasses
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from core import beton, beton_file
from core.cache import cache_folder
from core.demo import write_demo
from core.errors import InputError
from core.framing import Frame
from core.images import load_image
from core.manifest import Manifest
from core.pixels import ensure_array

pytestmark = pytest.mark.skipif(not beton.HAVE_FFCV, reason="ffcv cannot be imported here")

ROOT = Path(__file__).parents[2]
_LABEL = np.dtype(beton_file._SAMPLE).itemsize - 8  # bytes before a sample's label, its last field
FRAME = Frame.of(64, "whole")
SURFACES_S = 10.0  # an error must be told within this time of its fault


def with_file(manifest: Manifest, row: int, name: str) -> Manifest:
    return dataclasses.replace(manifest, paths=(*manifest.paths[:row], name, *manifest.paths[row + 1 :]))


@pytest.fixture(scope="module")
def manifest(hundred_images: Manifest) -> Manifest:
    return hundred_images


@pytest.fixture(scope="module")
def written(manifest: Manifest) -> Path:
    return beton.ensure_beton(manifest, FRAME)


def test_beton_holds_what_load_image_gives_in_the_order_of_the_manifest(manifest: Manifest, written: Path) -> None:
    pixels = beton_file.read_pixels(written)
    assert len(pixels) == len(manifest)
    assert pixels.size == FRAME.size
    np.testing.assert_array_equal(pixels.labels, manifest.labels)
    for row in range(len(manifest)):
        np.testing.assert_array_equal(pixels[row], load_image(manifest.file(row), FRAME))
    assert list(written.parent.glob(".*.tmp")) == [], "nothing is left beside the file"


def test_beton_has_the_same_bytes_on_every_run(manifest: Manifest, written: Path, tmp_path: Path) -> None:
    size = FRAME.size
    images = [load_image(manifest.file(row), FRAME) for row in range(len(manifest))]
    beton._write_samples(tmp_path / "again.beton", images, manifest.labels, size, lambda done: None)
    assert (tmp_path / "again.beton").read_bytes() == written.read_bytes()


def test_images_larger_than_a_default_page_get_larger_pages(tmp_path: Path) -> None:
    size = 1700  # 8.7 MB a sample, the default page has 8.4
    images = [np.full((size, size, 3), value, dtype=np.uint8) for value in (7, 9)]
    beton._write_samples(tmp_path / "large.beton", images, np.array([1, 0]), size, lambda done: None)
    pixels = beton_file.read_pixels(tmp_path / "large.beton")
    assert [int(pixels[row].min()) for row in (0, 1)] == [int(pixels[row].max()) for row in (0, 1)] == [7, 9]


def test_numba_runs_on_threads_that_two_loaders_can_share() -> None:
    import numba

    assert numba.threading_layer() in beton.SAFE_THREADING_LAYERS
    assert os.environ["NUMBA_THREADING_LAYER"] in beton.SAFE_THREADING_LAYERS, "children must choose alike"


def test_unreadable_image_ends_the_writing_with_its_name(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advanced_at: list[float] = []

    class Clock:
        """Notes when the child, which imports for long, has begun to write."""

        def advance(self, n: int) -> None:
            advanced_at.append(time.monotonic())

    monkeypatch.setattr("core.cli.progress", lambda description, total: nullcontext(Clock()))
    (tmp_path / "broken.jpg").write_bytes(manifest.file(4).read_bytes()[:300])
    bad = with_file(manifest, 4, str(tmp_path / "broken.jpg"))
    with pytest.raises(InputError, match=r"broken\.jpg"):
        beton.write_beton(bad, FRAME, tmp_path / "out" / "x.beton")
    assert time.monotonic() - advanced_at[0] < SURFACES_S
    assert list((tmp_path / "out").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_killed_writer_is_noticed_at_once(manifest: Manifest, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.jpg")  # Reading it blocks for ever, as a dead network mount would.
    stuck = with_file(manifest, 4, str(tmp_path / "endless.jpg"))
    killed_at: list[float] = []

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.05)
        killed_at.append(time.monotonic())
        children[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(InputError, match=r"ended by signal 9 there or soon after, with 0 of 100 images written"):
        beton.write_beton(stuck, FRAME, tmp_path / "out" / "x.beton")
    killer.join()
    assert time.monotonic() - killed_at[0] < SURFACES_S
    assert list((tmp_path / "out").iterdir()) == []


def test_silent_writer_is_ended(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beton, "_STALL_S", 0.2)  # Its imports alone take longer.
    with pytest.raises(InputError, match=r"000\.jpg.*nothing happened for 0\.2 s.*0 of 100 images"):
        beton.write_beton(manifest, FRAME, tmp_path / "x.beton")
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning")  # FFCV's file
def test_disk_that_fills_up_while_writing_is_told(manifest: Manifest, tmp_path: Path) -> None:
    files = [manifest.file(row) for row in range(len(manifest))]
    receiver, sender = multiprocessing.Pipe(duplex=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # FFCV ignores that the write of a page, which is larger, was cut short; what it writes next fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        beton._write_in_child(sender, files, None, manifest.labels, FRAME, tmp_path / "x.beton")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    *counts, last = [receiver.recv() for _ in range(len(manifest) + 1)]
    assert counts == list(range(1, len(manifest) + 1))
    assert isinstance(last, OSError)
    assert last.strerror == "File too large"


@pytest.mark.parametrize("kept", [0.0, 1e-6, 0.0005, 0.3, 0.999, 0.99999])
def test_cut_beton_is_refused(written: Path, tmp_path: Path, kept: float) -> None:
    data = written.read_bytes()
    (tmp_path / "cut.beton").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match=r"cut\.beton` must be a whole file of pixels, but got a damaged one"):
        beton_file.read_pixels(tmp_path / "cut.beton")


def test_pointer_out_of_the_file_is_refused(manifest: Manifest, written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    first = int(beton_file.read_pixels(written)._pointers[0]).to_bytes(8, "little")
    (tmp_path / "wild.beton").write_bytes(data.replace(first, (1 << 40).to_bytes(8, "little")))
    with pytest.raises(InputError, match=r"its table of samples is wrong"):
        beton_file.read_pixels(tmp_path / "wild.beton")


def test_any_other_file_is_refused(manifest: Manifest) -> None:
    with pytest.raises(InputError, match=r"000\.jpg` must be a whole file of pixels"):
        beton_file.read_pixels(manifest.file(0))
    with pytest.raises(InputError, match=r"there is no file .*none\.beton"):
        beton_file.read_pixels(Path("none.beton"))


def test_beton_is_written_once(manifest: Manifest, written: Path) -> None:
    before = written.stat()
    assert beton.ensure_beton(manifest, FRAME) == written
    assert (written.stat().st_ino, written.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_damaged_beton_in_the_cache_is_written_again_from_what_is_decoded(
    manifest: Manifest, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path))
    damaged = cache_folder(written.parent.name) / written.name
    damaged.write_bytes(written.read_bytes()[:-1])
    ensure_array(manifest, FRAME)
    moved = dataclasses.replace(manifest, roots=(tmp_path / "nowhere",))
    assert beton.ensure_beton(moved, FRAME) == damaged
    assert damaged.read_bytes() == written.read_bytes()
    assert "It is written again now." in caplog.text


def test_beton_of_other_labels_in_the_cache_is_written_again(
    manifest: Manifest, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path))
    damaged = cache_folder(written.parent.name) / written.name
    content = bytearray(written.read_bytes())
    start = beton_file._HEADER.itemsize + 2 * beton_file._FIELD.itemsize
    content[start + _LABEL] ^= 1
    damaged.write_bytes(content)
    assert beton_file.find_beton(manifest, FRAME) is None
    assert "it has other labels than the images" in caplog.text


def test_it_is_read_as_ffcv_reads_it(written: Path) -> None:
    from ffcv.reader import Reader

    theirs, ours = Reader(str(written)), beton_file.read_pixels(written)
    assert len(ours) == theirs.num_samples
    assert np.array_equal(ours._pointers, theirs.metadata["f0"]["data_ptr"])
    assert np.array_equal(ours.labels, theirs.metadata["f1"])


DECODE = """
import sys
from pathlib import Path
from core.datasets import load_manifest
from core.dataspec import DataSpec
from core.framing import Frame
from core.loaders import decode_once
if __name__ == "__main__":
    decode_once(load_manifest(DataSpec((Path(sys.argv[1]),))), Frame.of(32, "whole"))
    print("ffcv" in sys.modules)
"""


def test_pixels_are_decoded_without_ffcv_whose_import_takes_longer(tmp_path: Path) -> None:
    images, script = write_demo(tmp_path / "demo", images=60, width=48, height=36, workers=1), tmp_path / "decode.py"
    script.write_text(DECODE)
    environment = {**os.environ, "DERMATUNE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(images)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
