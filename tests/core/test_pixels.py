import dataclasses
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import pixels
from core.errors import InputError
from core.framing import Frame
from core.images import load_image
from core.manifest import Manifest

FRAME = Frame.of(32, "whole")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(1)
    names = tuple(f"{row}.png" for row in range(5))
    for name in names:
        Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    return Manifest(
        roots=(tmp_path,),
        layout="folder",
        paths=names,
        labels=np.array([0, 1, 0, 1, 1]),
        groups=names,
        classes=("a", "b"),
        sha256=tuple(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names),
        phashes=names,
    )


def test_array_holds_what_load_image_gives_and_is_written_once(manifest: Manifest) -> None:
    path = pixels.ensure_array(manifest, FRAME)
    before = path.stat()
    array = pixels.read_array(path)
    for row in range(len(manifest)):
        np.testing.assert_array_equal(array[row], load_image(manifest.file(row), FRAME))
    assert pixels.ensure_array(manifest, FRAME) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_array_in_the_cache_is_written_again(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    path = pixels.ensure_array(manifest, FRAME)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert pixels.ensure_array(manifest, FRAME).read_bytes() == whole
    assert "It is written again now." in caplog.text


def test_who_comes_while_images_are_decoded_waits_and_decodes_none(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    slow = pixels.write_array

    def write_slowly(*args: Any, **named: Any) -> None:
        written.append(1)
        time.sleep(0.5)
        slow(*args, **named)

    monkeypatch.setattr(pixels, "write_array", write_slowly)
    changed = dataclasses.replace(manifest, sha256=tuple(f"{hash:0>64}"[::-1] for hash in manifest.sha256))
    with ThreadPoolExecutor(3) as pool:
        files = list(pool.map(lambda _: pixels.ensure_array(changed, FRAME), range(3)))
    assert len(set(files)) == len(written) == 1


DIE = """
import os, signal, sys
from pathlib import Path
from core.pixels import one_writer, writing_pixels
with one_writer(Path(sys.argv[1])), writing_pixels(Path(sys.argv[1]), 5, 37) as aside:
    aside.write_bytes(bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)
"""
ROOT = Path(__file__).resolve().parents[2]


def test_what_a_killed_process_has_decoded_goes_when_the_next_one_decodes(manifest: Manifest) -> None:
    path = pixels.array_path(manifest, Frame.of(48, "whole"))
    killed = subprocess.run([sys.executable, "-c", DIE, str(path)], cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    def left() -> list[str]:
        return [file.name for file in path.parent.glob(f"*{path.name}.*.tmp")]

    assert len(left()) == 1
    assert pixels.ensure_array(manifest, Frame.of(48, "whole")) == path
    assert left() == []


def test_key_changes_with_whatever_the_file_would_hold(manifest: Manifest) -> None:
    turned = slice(None, None, -1)
    others = [
        dataclasses.replace(manifest, labels=np.array([1, 1, 0, 1, 1])),
        dataclasses.replace(manifest, sha256=("0" * 64, *manifest.sha256[1:])),
        dataclasses.replace(
            manifest, paths=manifest.paths[turned], sha256=manifest.sha256[turned], labels=manifest.labels[turned]
        ),
    ]
    keys = {pixels.pixels_key(manifest, Frame(37, "whole")), pixels.pixels_key(manifest, Frame(38, "whole"))}
    keys.add(pixels.pixels_key(manifest, Frame(37, "centre")))
    keys |= {pixels.pixels_key(other, Frame(37, "whole")) for other in others}
    assert len(keys) == 6


def test_key_does_not_depend_on_where_the_folder_lies(manifest: Manifest, tmp_path: Path) -> None:
    moved = dataclasses.replace(manifest, roots=(tmp_path / "elsewhere",))
    assert pixels.pixels_key(moved, Frame(37, "whole")) == pixels.pixels_key(manifest, Frame(37, "whole"))


def test_unreadable_image_is_named_and_leaves_no_file(manifest: Manifest, tmp_path: Path) -> None:
    manifest.file(3).write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"3\.png is not"):
        pixels.write_array(manifest, FRAME, tmp_path / "out" / "x.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_images_come_in_the_order_of_their_files(manifest: Manifest) -> None:
    files = [manifest.file(row) for row in (4, 0, 0, 2, 1, 3, 4)]
    for file, image in zip(files, pixels.decode_in_order(files, Frame(20, "whole")), strict=True):
        np.testing.assert_array_equal(image, load_image(file, Frame(20, "whole")))


def test_cut_or_foreign_array_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    pixels.write_array(manifest, FRAME, tmp_path / "x.npy")
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-1])
    np.save(tmp_path / "floats.npy", np.zeros((2, 3)))
    for name in ("cut.npy", "floats.npy"):
        with pytest.raises(InputError, match=rf"{name}` must be a whole file of pixels, but got a damaged one"):
            pixels.read_array(tmp_path / name)


def test_lack_of_room_is_told_before_anything_is_written(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free=1_000_000))
    with pytest.raises(InputError, match=r"must have room for 0\.07 GB of decoded pixels, but got 0\.00 GB free"):
        pixels.write_array(manifest, FRAME, tmp_path / "out" / "x.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_place_that_cannot_be_written_is_one_sentence(manifest: Manifest) -> None:
    path = manifest.file(0) / "x.npy"
    with pytest.raises(InputError, match=r"`.*x\.npy` must be writable, but got (Not a directory|File exists)"):
        pixels.write_array(manifest, FRAME, path)
