"""NumPy archives of images and labels, as MedMNIST has them: unpacked once into lossless files, then a set like others.

Legend: N images, H their height, W their width.
"""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core import cli
from core.cache import CACHE_VARIABLE, cache_folder
from core.device import available_cores
from core.errors import InputError, few
from core.files import remove_leftovers, written_aside
from core.images import MAX_PIXELS
from core.layouts.contract import TEST, TRAIN, VAL, Recognised, Row
from core.npz import Array, Npz, open_npz

_FORMAT = "1"  # of the unpacked folders: raise it when other files are written for the same archive
_ROLES = (TRAIN, VAL, TEST)
# The order in which medmnist/info.py of github.com/MedMNIST/MedMNIST numbers DermaMNIST's classes, in HAM10000's codes.
_DERMAMNIST = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
# Images of its train, val and test part. The corrected DermaMNIST-C, whose parts share no lesions, has other numbers.
_DERMAMNIST_COUNTS = [7_007, 1_003, 2_005]
_MOST_BYTES = 64 << 30  # of pixels in an archive; DermaMNIST at 224 x 224 has 1.5 GB
_MOST_IMAGES = 1_000_000  # MedMNIST's largest set has 236,386
_FILE_BYTES = 8_192  # of disk that a file may take beyond its pixels: its name, its last block, what PNG adds
_WAITING_BYTES = 1 << 28  # of pixels that wait for being written
_DAY_S = 86_400.0  # longer than any unpacking that is still at work


@dataclass(frozen=True)
class _Part:
    """The images of one official split and their labels.

    Attributes:
        role: The split.
        images: uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).
        labels: Integers (N,) or (N, 1).
    """

    role: str
    images: Array
    labels: Array

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def names(self) -> list[str]:
        """The files' names, whose order is that of the array."""
        digits = max(5, len(str(len(self))))
        return [f"{number:0{digits}d}.png" for number in range(1, len(self) + 1)]


def unpack_arrays(path: Path) -> tuple[Path, Recognised]:
    """Writes the images of an npz file into the cache, unless they are there, and says what they are.

    Args:
        path: An archive with ``train_images``, ``train_labels`` and likewise for ``val`` and ``test``.

    Returns:
        The folder that holds the files, such as ``train/00001.png``, and its rows with their official splits.

    Raises:
        InputError: The archive is damaged or of another kind, or the cache cannot hold its images.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"`--data` must be readable, but {path} is not ({error.strerror}). Give another.") from error
    folder = cache_folder("arrays") / f"{digest[:32]}-{_FORMAT}"
    with open_npz(path) as npz:
        parts = _find_parts(npz)
        labels = [npz.read(part.labels).ravel().tolist() for part in parts]
        if not _is_complete(folder, parts):
            _write(folder, parts, npz)
    return folder, _recognised(path, parts, labels)


def _find_parts(npz: Npz) -> list[_Part]:
    """The splits of an archive, checked as far as their headers tell."""
    pairs = {role: (f"{role}_images", f"{role}_labels") for role in _ROLES}
    present = [role for role, pair in pairs.items() if not set(pair).isdisjoint(npz.names)]
    if not present or not all(set(pairs[role]) <= set(npz.names) for role in present):
        raise InputError(
            "An npz file must have the arrays train_images and train_labels, and such pairs for val and test, but "
            f"{npz.path} has {few(npz.names) or 'none'}. Name its arrays so."
        )
    parts = [_Part(role, *map(npz.header, pairs[role])) for role in present]
    for part in parts:
        _check_part(part)
    if len({part.images.shape[1:] for part in parts}) > 1:
        shapes = few([f"{part.images.name} {part.images.shape}" for part in parts])
        raise InputError(f"All images of an npz file must be of one size, but {npz.path} has {shapes}. Split it.")
    size, count = sum(part.images.nbytes for part in parts), sum(map(len, parts))
    if size > _MOST_BYTES or count > _MOST_IMAGES:
        raise InputError(
            f"An npz file must have at most {_MOST_BYTES >> 30} GB of pixels in {_MOST_IMAGES:,} images, but "
            f"{npz.path} declares {size / (1 << 30):,.1f} GB in {count:,}. Give a part of it."
        )
    return parts


def _check_part(part: _Part) -> None:
    images, labels = part.images, part.labels
    plain = len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not plain or 0 in images.shape:
        raise InputError(
            f"`{images.name}` must be uint8 of shape (N, H, W) or (N, H, W, 3), but got {images}. Save it so."
        )
    if images.shape[1] * images.shape[2] > MAX_PIXELS:
        raise InputError(
            f"`{images.name}` must have at most {MAX_PIXELS:,} pixels an image, but got {images}. Make them smaller."
        )
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(part),), (len(part), 1)):
        raise InputError(
            f"`{labels.name}` must be one whole number for each of the {len(part):,} {images.name}, but got {labels}. "
            "Save it so; several labels an image cannot be learned here."
        )


def _is_complete(folder: Path, parts: Sequence[_Part]) -> bool:
    """Whether the folder has all files; after a power cut some may be empty, and anybody may clean up a cache."""
    try:
        return all(_filled(folder / part.role) == set(part.names) for part in parts)
    except FileNotFoundError:
        return False


def _filled(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.stat().st_size}


def _write(folder: Path, parts: Sequence[_Part], npz: Npz) -> None:
    """Writes all images aside and renames their folder."""
    count = sum(map(len, parts))
    with _cache_faults_told(folder):
        remove_leftovers(folder.parent, older_than_s=_DAY_S)
        needed, free = (
            sum(part.images.nbytes for part in parts) + count * _FILE_BYTES,
            shutil.disk_usage(folder.parent).free,
        )
        if needed > free:
            raise InputError(
                f"The cache must have room for {needed / 1e9:.2f} GB of unpacked images, but {folder.parent} has "
                f"{free / 1e9:.2f} GB free. Make room, or set {CACHE_VARIABLE} to a folder on another disk."
            )
        shutil.rmtree(folder, ignore_errors=True)  # if it is there, it is incomplete
        try:
            with written_aside(folder) as aside, cli.progress("unpacking images", count) as bar:
                for part in parts:
                    (aside / part.role).mkdir(parents=True)
                    files = [aside / part.role / name for name in part.names]
                    for _ in _saved(npz.rows(part.images), files, part.images.nbytes // len(part)):
                        bar.advance()
        except OSError:
            if not _is_complete(folder, parts):  # else another process was quicker
                raise


@contextmanager
def _cache_faults_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The cache must be writable, but {folder.parent} is not ({error.strerror or error}). Make room or give "
            f"rights there, or set {CACHE_VARIABLE} to another folder."
        ) from error


def _saved(images: Iterator[npt.NDArray[Any]], files: Sequence[Path], nbytes: int) -> Iterator[None]:
    """Saves images on all cores (Pillow lets go of the GIL), yielding after each; only a few are in memory."""
    cores = available_cores()
    most = max(1, min(2 * cores, _WAITING_BYTES // nbytes))
    with ThreadPoolExecutor(cores) as pool:
        running: deque[Future[None]] = deque()
        try:
            for image, file in zip(images, files, strict=True):
                running.append(pool.submit(_save, image, file))
                if len(running) >= most:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _save(image: npt.NDArray[Any], file: Path) -> None:
    grey = image.reshape(image.shape[:2]) if image.shape[2:] == (1,) else image
    Image.fromarray(grey).save(file, compress_level=1)  # a quarter of the default's time for 1.16 times its size


def _recognised(path: Path, parts: Sequence[_Part], labels: Sequence[list[int]]) -> Recognised:
    numbers = sorted({number for part in labels for number in part})
    notes = []
    derma = numbers == list(range(len(_DERMAMNIST))) and parts[0].images.shape[3:] == (3,)
    if derma:
        named = ", ".join(f"{number} {name}" for number, name in enumerate(_DERMAMNIST))
        notes.append(f"the classes of {path.name} are taken for DermaMNIST's: {named}")
        if [len(part) for part in parts] == _DERMAMNIST_COUNTS:
            notes.append(
                "photos of one lesion are in several of DermaMNIST's official parts, so that its test flatters every "
                "model (doi.org/10.1038/s41597-025-04382-5); DermaMNIST-C is the version without this fault"
            )
    split = len(parts) > 1
    return Recognised(
        layout="dermamnist" if derma else "labelled arrays",
        reason=f"{path.name} has the arrays {', '.join(f'{part.role}_images' for part in parts)} and their labels",
        rows=[
            Row(
                f"{part.role}/{name}",
                _DERMAMNIST[number] if derma else str(number),
                split=part.role if split else "",
            )
            for part, its_labels in zip(parts, labels, strict=True)
            for name, number in zip(part.names, its_labels, strict=True)
        ],
        notes=notes,
    )
