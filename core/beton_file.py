"""Reads `.beton` files of raw pixels without FFCV, whose import compiles for seconds and which only writing them needs.

The layout is that of FFCV 1.0.2 (`ffcv/types.py`, format version 2): a header, a descriptor of each field, a row of
metadata for each sample, the samples, and a table of where they are.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.cache import cache_folder
from core.errors import InputError
from core.framing import Frame
from core.manifest import Manifest
from core.pixels import UInt8Array, damaged, pixels_key

_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
_FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", (1024,))])
_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8")], align=True)
_PLACE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_VERSION = 2
_FIELDS = [(2, b"image"), (1, b"label")]  # FFCV's numbers of the fields of RGB images and of whole numbers
_RAW = 1  # FFCV's number for raw samples in `mode`

_log = logging.getLogger(__name__)


class BetonPixels:
    """The raw samples of a beton, memory-mapped; nothing is compiled or copied.

    Attributes:
        path: The file.
        size: Side of every image, pixels.
        labels: int64 (N,).
    """

    def __init__(
        self, path: Path, *, size: int, pointers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
    ) -> None:
        self.path = path
        self.size = size
        self.labels = labels
        self._pointers = pointers
        self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))

    def __len__(self) -> int:
        return len(self._pointers)

    def __getitem__(self, row: int) -> UInt8Array:
        """One image, uint8 (S, S, 3), a read-only view of the file."""
        start = int(self._pointers[row])
        return self._bytes[start : start + self.size * self.size * 3].reshape(self.size, self.size, 3)


def beton_path(manifest: Manifest, frame: Frame) -> Path:
    """Where the beton of a manifest lies in the cache, once it is written."""
    return cache_folder("pixels") / f"{pixels_key(manifest, frame)}.beton"


def find_beton(manifest: Manifest, frame: Frame) -> BetonPixels | None:
    """The beton of a manifest, if it is in the cache and whole."""
    path = beton_path(manifest, frame)
    if not path.exists():
        return None
    try:
        pixels = read_pixels(path)
        if not np.array_equal(pixels.labels, manifest.labels):
            raise damaged(path, "it has other labels than the images")
    except InputError as error:
        _log.warning("%s It is written again now.", error)
        return None
    return pixels


def read_pixels(path: Path) -> BetonPixels:
    """Opens a beton of `core.beton.write_beton` for reading its raw samples.

    Everything that FFCV takes on trust (and answers with a crash of the process) is checked here, so call this before
    giving the file to an FFCV loader.

    Raises:
        InputError: The file is missing, cut or damaged, or not one of ours.
    """
    if not path.is_file():
        raise InputError(f"`path` must be a beton, but there is no file {path}. Write it with write_beton.")
    length = path.stat().st_size
    header = _read(path, _HEADER, 1, 0)[0]
    if (header["version"], header["num_fields"]) != (_VERSION, len(_FIELDS)):
        raise damaged(path, "its header is not that of a beton with two fields")
    count, end_of_samples = int(header["num_samples"]), int(header["alloc_table_ptr"])
    start = _HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize
    if not start + count * _SAMPLE.itemsize <= end_of_samples <= length or not count:
        raise damaged(path, "it ends too early")
    fields = _read(path, _FIELD, len(_FIELDS), _HEADER.itemsize)
    if [(int(field["type_id"]), bytes(field["name"])) for field in fields] != _FIELDS:
        raise damaged(path, "it has other fields than image and label")
    samples = _read(path, _SAMPLE, count, start)
    places = _read(path, _PLACE, (length - end_of_samples) // _PLACE.itemsize, end_of_samples)
    images, table = samples["image"], np.sort(places, order="ptr")
    pointers, size = images["data_ptr"].astype(np.int64), int(images["width"].max())
    claims = {
        "its samples are not raw": bool((images["mode"] == _RAW).all()),
        "its images differ in size": bool((images["width"] == size).all() and (images["height"] == size).all()),
        "its table of samples is wrong": np.array_equal(table["ptr"], np.sort(images["data_ptr"]))
        and bool((table["size"] == size * size * 3).all())
        and bool((np.diff(table["ptr"].astype(np.int64)) >= size * size * 3).all())
        and int(pointers.min()) > 0
        and int(pointers.max()) + size * size * 3 <= end_of_samples,
    }
    for why, holds in claims.items():
        if not holds:
            raise damaged(path, why)
    return BetonPixels(path, size=size, pointers=pointers, labels=samples["label"].astype(np.int64))


def _read(path: Path, dtype: "np.dtype[Any]", count: int, offset: int) -> "npt.NDArray[Any]":
    """Some records of a file; fewer than asked for mean that it is cut."""
    records = np.fromfile(path, dtype=dtype, count=count, offset=offset)
    if len(records) < count:
        raise damaged(path, "it ends too early")
    return records
