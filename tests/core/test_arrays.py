import io
import os
import shutil
import threading
import time
import tracemalloc
import zipfile
from collections import Counter, namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.arrays import unpack_arrays
from core.cache import CACHE_VARIABLE
from core.errors import InputError
from core.files import written_aside
from tests.fixtures.arrays import dermamnist_arrays, write_dermamnist


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "arrays"


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def images(count: int = 4, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *(shape or (5, 6, 3))), dtype=np.uint8)


def refused(path: Path, match: str, cache: Path) -> None:
    """The archive is refused, and nothing has been written."""
    with pytest.raises(InputError, match=match):
        unpack_arrays(path)
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("size", [28, 64])
def test_dermamnist_is_unpacked_without_loss(tmp_path: Path, size: int) -> None:
    arrays = dermamnist_arrays(size)

    folder, found = unpack_arrays(write_dermamnist(tmp_path / "dermamnist.npz", size))

    assert found.layout == "dermamnist"
    assert Counter(row.split for row in found.rows) == {"train": 28, "val": 21, "test": 21}
    codes = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    for role in ("train", "val", "test"):
        rows = [row for row in found.rows if row.split == role]
        assert [row.path for row in rows] == [f"{role}/{n:05}.png" for n in range(1, len(rows) + 1)]
        assert [row.label for row in rows] == [codes[label] for label in arrays[f"{role}_labels"][:, 0]]
        for row, pixels in zip(rows, arrays[f"{role}_images"], strict=True):
            with Image.open(folder / row.path) as image:
                assert (image.format, image.mode) == ("PNG", "RGB")
                np.testing.assert_array_equal(np.asarray(image), pixels)
    assert {row.group for row in found.rows} == {""}
    assert found.faults == found.missing == found.unlabelled == []


def test_the_names_of_dermamnists_classes_are_said(tmp_path: Path) -> None:
    _, found = unpack_arrays(write_dermamnist(tmp_path / "d.npz"))

    assert found.reason == "d.npz has the arrays train_images, val_images, test_images and their labels"
    assert found.notes == [
        "the classes of d.npz are taken for DermaMNIST's: 0 akiec, 1 bcc, 2 bkl, 3 df, 4 mel, 5 nv, 6 vasc"
    ]


def test_the_lesions_that_dermamnists_parts_share_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.arrays._DERMAMNIST_COUNTS", [28, 21, 21])

    _, found = unpack_arrays(write_dermamnist(tmp_path / "d.npz"))

    assert "photos of one lesion are in several of DermaMNIST's official parts" in found.notes[1]


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1)])
def test_grey_images_stay_grey(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = images(4, *shape)

    folder, found = unpack_arrays(save(tmp_path / "g.npz", train_images=pixels, train_labels=np.arange(4) % 2))

    with Image.open(folder / found.rows[3].path) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), pixels[3].reshape(5, 6))


@pytest.mark.parametrize(
    ("shape", "classes"), [((5, 6), 7), ((5, 6, 3), 6), ((5, 6, 3), 8)], ids=["grey", "six classes", "eight classes"]
)
def test_other_classes_are_called_by_their_numbers(tmp_path: Path, shape: tuple[int, ...], classes: int) -> None:
    labels = np.arange(2 * classes, dtype=np.int64)[:, None] % classes

    _, found = unpack_arrays(save(tmp_path / "x.npz", train_images=images(2 * classes, *shape), train_labels=labels))

    assert found.layout == "labelled arrays"
    assert [row.label for row in found.rows] == [str(number) for number in labels[:, 0]]
    assert found.notes == []


@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i8", "<u8"])
def test_labels_may_be_of_any_integer_type(tmp_path: Path, dtype: str) -> None:
    labels = np.array([0, 1, 100, 0], dtype=dtype)

    _, found = unpack_arrays(save(tmp_path / "x.npz", train_images=images(), train_labels=labels))

    assert [row.label for row in found.rows] == ["0", "1", "100", "0"]


def test_one_part_alone_is_no_official_part(tmp_path: Path) -> None:
    _, found = unpack_arrays(save(tmp_path / "x.npz", train_images=images(), train_labels=np.arange(4) % 2))

    assert {row.split for row in found.rows} == {""}


def test_a_second_call_finds_the_files(tmp_path: Path, cache: Path) -> None:
    path = write_dermamnist(tmp_path / "d.npz")
    first = unpack_arrays(path)
    stamps = {file: file.stat().st_mtime_ns for file in cache.rglob("*.png")}
    (tmp_path / "other name").mkdir()
    moved = path.rename(tmp_path / "other name" / "d.npz")

    assert unpack_arrays(moved) == first
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.png")} == stamps


@pytest.mark.parametrize("damage", ["absent", "empty", "no folder"])
def test_what_has_gone_from_the_cache_is_written_again(tmp_path: Path, damage: str) -> None:
    path = write_dermamnist(tmp_path / "d.npz")
    folder, found = unpack_arrays(path)
    if damage == "no folder":
        shutil.rmtree(folder / "val")
    elif damage == "absent":
        (folder / "val" / "00003.png").unlink()
    else:
        (folder / "val" / "00003.png").write_bytes(b"")

    assert unpack_arrays(path) == (folder, found)
    assert all((folder / row.path).stat().st_size for row in found.rows)


def test_other_bytes_are_other_files(tmp_path: Path) -> None:
    one = save(tmp_path / "1.npz", train_images=images(), train_labels=np.arange(4))
    two = save(tmp_path / "2.npz", train_images=images()[::-1], train_labels=np.arange(4))

    assert unpack_arrays(one)[0] != unpack_arrays(two)[0]


def test_two_processes_may_unpack_at_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dermamnist(tmp_path / "d.npz")
    gate = threading.Barrier(2)

    def together(folder: Path) -> Any:
        gate.wait(10)  # both have seen that there is nothing yet
        return written_aside(folder)

    monkeypatch.setattr("core.arrays.written_aside", together)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(unpack_arrays(path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 2
    assert found[0] == found[1]
    assert [folder.name for folder in cache.iterdir()] == [found[0][0].name]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    for name, age_s in ((".old.tmp", 2 * 86_400), (".young.tmp", 60)):
        (cache / name / "train").mkdir(parents=True)
        os.utime(cache / name, (time.time() - age_s,) * 2)

    unpack_arrays(write_dermamnist(tmp_path / "d.npz"))

    assert {path.name for path in cache.glob(".*")} == {".young.tmp"}


def test_a_large_array_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.arrays.available_cores", lambda: 2)
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (150, 256, 256, 3)[1:3])
    path = tmp_path / "large.npz"
    np.savez_compressed(path, train_images=np.stack([pixels] * 400), train_labels=np.arange(400) % 2)

    tracemalloc.start()
    unpack_arrays(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 5e6  # the array has 26 MB


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": images(), "y": np.arange(4)}, r"must have the arrays train_images and .*x\.npz has x, y\. Name its"),
        ({"train_images": images()}, r"must have the arrays .*has train_images\."),
        ({"train_images": images(), "train_labels": np.arange(4), "val_labels": np.arange(4)}, r"such pairs for val"),
        (
            {"train_images": images(), "train_labels": np.arange(5)},
            r"`train_labels` must be one whole number for each of the 4 train_images, but got int64 of shape \(5,\)",
        ),
        ({"train_images": images(), "train_labels": np.zeros((4, 14), np.uint8)}, r"several labels an image"),
        ({"train_images": images(), "train_labels": np.zeros(4)}, r"must be one whole number .*float64"),
        ({"train_images": images(), "train_labels": np.array(list("abcd"))}, r"must be one whole number .*<U1"),
        (
            {"train_images": images() / 255, "train_labels": np.arange(4)},
            r"`train_images` must be uint8 of shape \(N, H, W\) or \(N, H, W, 3\), but got float64 of shape \(4, 5,",
        ),
        ({"train_images": images(4, 3, 5, 6), "train_labels": np.arange(4)}, r"must be uint8 of shape"),
        ({"train_images": images(4, 5, 6, 4), "train_labels": np.arange(4)}, r"must be uint8 of shape"),
        ({"train_images": images(4, 7), "train_labels": np.arange(4)}, r"must be uint8 of shape"),
        ({"train_images": images(4, 0, 6), "train_labels": np.arange(4)}, r"must be uint8 of shape"),
        ({"train_images": images(0, 5, 6), "train_labels": np.arange(0)}, r"must be uint8 of shape"),
        (
            {"train_images": images(), "train_labels": np.arange(4), "val_images": images(4, 9, 9)}
            | {"val_labels": np.arange(4)},
            r"must be of one size, but .*has train_images \(4, 5, 6, 3\), val_images \(4, 9, 9\)",
        ),
        (
            {"train_images": np.asfortranarray(images()), "train_labels": np.arange(4)},
            r"`train_images` must be stored row by row, but .* Fortran's order\. Save it again with numpy\.asc",
        ),
    ],
)
def test_arrays_of_another_kind_are_refused_in_one_sentence(
    tmp_path: Path, cache: Path, arrays: dict[str, Any], match: str
) -> None:
    refused(save(tmp_path / "x.npz", **arrays), match, cache)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_pickles_are_refused_and_never_loaded(tmp_path: Path, cache: Path, name: str) -> None:
    arrays: dict[str, Any] = {"train_images": images(1), "train_labels": np.arange(1)}
    arrays[name] = np.array([Trap(tmp_path / "marker")], dtype=object)

    refused(save(tmp_path / "x.npz", **arrays), rf"`{name}` must hold numbers, but .* never loaded", cache)
    assert not (tmp_path / "marker").exists()


def write_members(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray, **header: object) -> bytes:
    """An array as a file, with some of its header declared otherwise."""
    file = io.BytesIO()
    told = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, told | header)
    return file.getvalue() + array.tobytes()


def test_more_values_declared_than_there_are_is_refused(tmp_path: Path, cache: Path) -> None:
    path = write_members(
        tmp_path / "x.npz", train_images=npy(images(), shape=(10**12, 5, 6, 3)), train_labels=npy(np.arange(4))
    )

    refused(
        path, r"cannot be read \(train_images is declared as uint8 of shape \(1000000000000, .*has 360 bytes", cache
    )


@pytest.mark.parametrize("shape", [(-4, 5, 6, -3), (4, 5, 6, 3, 0), ("4",), [360]])
def test_impossible_shapes_are_refused(tmp_path: Path, cache: Path, shape: object) -> None:
    path = write_members(tmp_path / "x.npz", train_images=npy(images(), shape=shape), train_labels=npy(np.arange(4)))

    refused(path, r"An npz file must be whole, but .*x\.npz cannot be read", cache)


def test_a_header_that_unpacks_to_megabytes_is_not_read(tmp_path: Path, cache: Path) -> None:
    header = b"\x93NUMPY\x02\x00" + (1 << 26).to_bytes(4, "little") + b"{" + b" " * (1 << 26)
    path = write_members(tmp_path / "x.npz", zipfile.ZIP_DEFLATED, train_images=header, train_labels=npy(np.arange(4)))
    del header

    tracemalloc.start()
    refused(path, r"cannot be read \(EOF: reading array header", cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 5e6


def test_images_that_the_disk_cannot_hold_are_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("core.arrays.shutil.disk_usage", lambda folder: usage(1, 1, 100_000))

    refused(
        write_dermamnist(tmp_path / "d.npz"),
        rf"must have room for 0\.00 GB of unpacked images, but .*0\.00 GB free\. Make room, or set {CACHE_VARIABLE}",
        cache,
    )


@pytest.mark.parametrize(
    ("limit", "match"),
    [
        ("_MOST_BYTES", r"at most 0 GB of pixels in 1,000,000 images, but .*declares 0\.0 GB in 70\. Give a part"),
        ("_MOST_IMAGES", r"at most 64 GB of pixels in 8 images, but .*declares 0\.0 GB in 70\. Give a part"),
        ("MAX_PIXELS", r"`train_images` must have at most 8 pixels an image, but got uint8 of shape \(28, 28, 28, 3\)"),
    ],
)
def test_bombs_are_refused_by_what_they_declare(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, limit: str, match: str
) -> None:
    monkeypatch.setattr(f"core.arrays.{limit}", 8)

    refused(write_dermamnist(tmp_path / "d.npz"), match, cache)


def test_two_arrays_of_one_name_are_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", npy(images()))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train_images.npy", npy(images()))

    refused(path, r"several arrays have one name: train_images\.npy", cache)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)], ids=["empty", "text", "no member"])
def test_what_is_no_archive_is_refused(tmp_path: Path, cache: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)

    refused(tmp_path / "x.npz", r"cannot be read \(File is not a zip file\)|x\.npz has none", cache)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, cache: Path, share: float) -> None:
    path = write_dermamnist(tmp_path / "d.npz")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    refused(path, r"must be whole, but .*d\.npz cannot be read \(.*\)\. Download or save it again", cache)


def test_a_changed_byte_is_noticed_and_nothing_stays(tmp_path: Path, cache: Path) -> None:
    path = save(tmp_path / "x.npz", train_images=images(), train_labels=np.arange(4) % 2)
    content = bytearray(path.read_bytes())
    content[content.index(images()[3].tobytes()) + 5] ^= 1
    path.write_bytes(content)

    refused(path, r"cannot be read \(Bad CRC-32", cache)


def test_an_archive_that_is_gone_is_refused(tmp_path: Path, cache: Path) -> None:
    refused(tmp_path / "x.npz", r"`--data` must be readable, but .*x\.npz is not \(No such file", cache)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, file: Path, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.arrays.Image.Image.save", full)

    with pytest.raises(
        InputError, match=r"The cache must be writable, but .*arrays is not \(No space left on device\)"
    ):
        unpack_arrays(write_dermamnist(tmp_path / "d.npz"))
    assert list((tmp_path / "cache" / "arrays").iterdir()) == []


def _archive(compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for role in ("train", "test"):
            archive.writestr(f"{role}_images.npy", npy(images(2, 2, 2, 3)))
            archive.writestr(f"{role}_labels.npy", npy(np.arange(2)))
    return file.getvalue()


_ARCHIVES = st.sampled_from([_archive(zipfile.ZIP_STORED), _archive(zipfile.ZIP_DEFLATED)])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An archive with some bytes changed, cut out, doubled or put in."""
    content = bytearray(draw(_ARCHIVES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 8))
        match draw(st.sampled_from(["change", "cut", "double", "insert", "end"])):
            case "change":
                content[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "cut":
                del content[at : at + length]
            case "double":
                content[at:at] = content[at : at + 40 * length]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "end":
                del content[at:]
    return bytes(content)


def unpack_or_refuse(folder: Path, content: bytes) -> None:
    (folder / "x.npz").write_bytes(content)
    with suppress(InputError):
        root, found = unpack_arrays(folder / "x.npz")
        assert all((root / row.path).is_file() for row in found.rows)


@settings(max_examples=300)
@given(mutated())
def test_any_changed_archive_is_unpacked_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    unpack_or_refuse(tmp_path_factory.mktemp("fuzz"), content)


_LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["|u1", "|O", "<i8", "<M8[s]"]),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.lists(inner, max_size=3),
    max_leaves=6,
)
_HEADERS = st.fixed_dictionaries({"descr": _LITERALS, "fortran_order": _LITERALS, "shape": _LITERALS}).map(repr)


@settings(max_examples=300)
@given(
    header=(_HEADERS | st.text(max_size=60) | st.sampled_from(["(" * 900, "-" * 900 + "1", "{'shape': (1L,)}"])).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    ),
    version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\x00"]),
    body=st.binary(max_size=24),
)
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, version: bytes, body: bytes
) -> None:
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    folder = tmp_path_factory.mktemp("fuzz")
    write_members(
        folder / "x.npz", train_images=b"\x93NUMPY" + version + length + header + body, train_labels=npy(np.arange(1))
    )

    unpack_or_refuse(folder, (folder / "x.npz").read_bytes())
