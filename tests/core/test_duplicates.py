import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import duplicates
from core.duplicates import near_duplicates
from core.errors import InputError
from core.inspection import inspect_image
from core.manifest import Manifest


def skin(seed: int) -> Image.Image:
    """Blobs on a plain ground, 300 x 225."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((300, 225), Image.Resampling.BICUBIC)


def manifest_of(folder: Path, groups: list[str]) -> Manifest:
    files = sorted(folder.iterdir())
    reports = [inspect_image(file) for file in files]
    return Manifest(
        roots=(folder,),
        layout="ham10000",
        paths=tuple(file.name for file in files),
        labels=np.zeros(len(files), dtype=np.int64),
        groups=tuple(groups),
        classes=("nv",),
        sha256=tuple(report.sha256 for report in reports),
        phashes=tuple(report.phash for report in reports),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five different images, and four more photos of the first."""
    for seed in range(5):
        skin(seed).save(tmp_path / f"{seed}.png")
    first = skin(0)
    first.save(tmp_path / "5.png")
    first.save(tmp_path / "6.jpg", quality=50)
    first.crop((5, 4, 297, 223)).save(tmp_path / "7.jpg", quality=90)
    first.point(lambda value: int(value * 0.8 + 20)).save(tmp_path / "8.jpg", quality=90)
    return tmp_path


def test_copies_recompressed_shifted_and_darkened_photos_are_found(folder: Path) -> None:
    found = near_duplicates(manifest_of(folder, list("abcdefghi")))

    with_first = {tuple(pair) for pair in found.tolist() if pair[0] == 0}
    assert with_first == {(0, 5), (0, 6), (0, 7), (0, 8)}
    assert not {1, 2, 3, 4} & set(found.ravel().tolist())


def test_pairs_of_one_group_are_not_looked_for(folder: Path) -> None:
    assert near_duplicates(manifest_of(folder, list("abcdeaaaa"))).shape == (0, 2)


def test_blocks_do_not_change_the_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(folder, list("abcdefghi"))
    expected = near_duplicates(manifest)
    monkeypatch.setattr(duplicates, "_BLOCK", 2)
    monkeypatch.setattr(duplicates, "_BATCH", 3)

    assert sorted(near_duplicates(manifest).tolist()) == sorted(expected.tolist())


def test_images_alike_in_hash_only_are_not_joined(folder: Path) -> None:
    manifest = dataclasses.replace(manifest_of(folder, list("abcdefghi")), phashes=("00" * 16,) * 9)

    assert not {1, 2, 3, 4} & set(near_duplicates(manifest).ravel().tolist())


def test_too_many_candidates_are_cut_to_the_closest_and_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(duplicates, "_MOST_CANDIDATES", 1)

    found = near_duplicates(manifest_of(folder, list("abcdefghi")))

    assert found.tolist() == [[0, 5], [0, 8]]  # equal bytes are no candidates
    assert "the closest 1 are compared" in caplog.text


def test_blank_images_are_joined_only_if_identical(tmp_path: Path) -> None:
    for name, value in (("0.png", 250), ("1.png", 250), ("2.png", 5)):
        Image.new("RGB", (40, 30), (value,) * 3).save(tmp_path / name)

    assert near_duplicates(manifest_of(tmp_path, list("abc"))).tolist() == [[0, 1]]


def test_equal_bytes_are_joined_however_many_images_look_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MOST_CANDIDATES", 1)
    for n in range(8):
        Image.new("RGB", (40, 30), (100 + n // 2,) * 3).save(tmp_path / f"{n}.png")

    found = near_duplicates(manifest_of(tmp_path, list("abcdeffg")))

    assert [[0, 1], [2, 3]] == found.tolist()[:2]
    assert [4, 5] in found.tolist()
    assert [6, 7] in found.tolist()


def test_of_many_equal_images_each_is_paired_with_the_first_of_another_group(tmp_path: Path) -> None:
    for n in range(5):
        Image.new("RGB", (40, 30), (100,) * 3).save(tmp_path / f"{n}.png")

    assert near_duplicates(manifest_of(tmp_path, list("aabca"))).tolist() == [[0, 2], [0, 3]]


def test_an_image_that_vanished_is_named(folder: Path) -> None:
    manifest = manifest_of(folder, list("abcdefghi"))
    (folder / "6.jpg").unlink()

    with pytest.raises(InputError, match=r"6\.jpg is not \(No such file"):
        near_duplicates(manifest)
