"""What image files are, found out once: hashes, sizes and problems, computed in parallel and remembered on disk."""

import hashlib
import io
import json
import logging
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import PIL

from core import cli
from core.cache import cache_folder
from core.device import available_cores
from core.errors import InputError, in_full
from core.files import written_aside
from core.images import UnreadableImageError, decode, open_image

_log = logging.getLogger(__name__)

# Raise it when a report of the same file by the same Pillow would come out differently.
_FORMAT = "4"
# Below this many images, decoding them here is quicker than starting processes (about 1 s on two cores).
_WORTH_PROCESSES = 200
_CHUNK = 32  # images a worker takes at once: rare enough for messages not to count, often enough for a moving bar

_ROW_TYPES = (int, int, int, str, str, int, int, str | None)  # of a remembered row: a stamp and an ImageReport
_STAMPED = 3  # values of such a row that are its stamp
_HASHES = re.compile(r"[0-9a-f]{64} ([0-9a-f]{32})?")

# Size in bytes, and times of modification and of change in ns, by which a changed file is noticed. A copy made with the
# old one's times (`cp -p`) has those of modification, but the system sets that of change.
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class ImageReport:
    """What a file turned out to be.

    Attributes:
        sha256: Hash of the bytes, hexadecimal; empty if they cannot be read.
        phash: 128 bits, hexadecimal: imagehash's `phash` and `dhash` at 8 x 8; empty if the image cannot be decoded.
        width: Pixels of the upright image; 0 if it cannot be decoded.
        height: Pixels of the upright image; 0 if it cannot be decoded.
        problem: Why it cannot be used, in a few words; None if it can.
    """

    sha256: str
    phash: str
    width: int
    height: int
    problem: str | None


def inspect_image(path: Path) -> ImageReport:
    """Reads and decodes a file completely; a bad file becomes a report with its problem, never an exception."""
    import imagehash

    try:
        with open_image(path) as file:
            content = file.read()
    except OSError as error:
        return ImageReport("", "", 0, 0, error.strerror or "cannot be read")
    except UnreadableImageError as error:
        return ImageReport("", "", 0, 0, str(error))
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        image = decode(io.BytesIO(content))
        phash = f"{imagehash.phash(image)}{imagehash.dhash(image)}"
    except UnreadableImageError as error:
        return ImageReport(sha256, "", 0, 0, str(error))
    return ImageReport(sha256, phash, image.width, image.height, None)


def inspect_images(paths: Sequence[Path], *, workers: int | None = None) -> list[ImageReport]:
    """Inspects files in parallel, with a progress bar; files that have not changed since are not read again.

    What is known is kept in the cache, one file for each folder of images, by absolute path, size and times. What has
    been found out is kept even if the run is broken off.

    Args:
        paths: Image files.
        workers: Processes; the cores that this process may use by default.

    Returns:
        One report for each path, in the order of `paths`.
    """
    files = [os.path.abspath(path) for path in paths]
    places = [os.path.split(file) for file in files]
    stamps = [_stamp(file) for file in files]
    folders = {folder: _Remembered(folder) for folder in {folder for folder, _ in places}}
    reports = [folders[folder].get(name, stamp) for (folder, name), stamp in zip(places, stamps, strict=True)]
    missing = [row for row, report in enumerate(reports) if report is None]
    with ExitStack() as stack:
        for folder in folders.values():
            stack.callback(folder.save)
        fresh = _inspected([Path(files[row]) for row in missing], workers or available_cores())
        for row, report in zip(missing, fresh, strict=True):
            reports[row] = report
            parent, name = places[row]
            folders[parent].put(name, stamps[row], report)
    return [report for report in reports if report is not None]


def _inspected(files: list[Path], workers: int) -> Iterator[ImageReport]:
    """The reports in order, as they come in."""
    if not files:
        return
    with ExitStack() as stack:
        bar = stack.enter_context(cli.progress("inspecting images", len(files)))
        reports: Iterator[ImageReport] = map(inspect_image, files)
        if workers > 1 and len(files) >= _WORTH_PROCESSES:
            # spawn: a fork of a process that has started threads (torch's, numba's) may hang
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            stack.callback(partial(pool.shutdown, cancel_futures=True))
            reports = pool.map(inspect_image, files, chunksize=_CHUNK)
        for report in reports:
            bar.advance()
            yield report


def refuse_unreadable(paths: Sequence[Path], *, among: int) -> None:
    """Names those of some files that can't be decoded completely.

    Args:
        paths: Image files.
        among: How many there are in all.

    Raises:
        InputError: There are some.
    """
    reports = inspect_images(paths)
    bad = [f"{path} ({report.problem})" for path, report in zip(paths, reports, strict=True) if report.problem]
    if bad:
        raise InputError(
            f"All images must be readable, but {len(bad):,} of {among:,} are not: {in_full(bad)}. "
            "Replace them or leave them out."
        )


def _stamp(file: str) -> _Stamp:
    try:
        status = os.stat(file)
    except OSError:
        return (-1, -1, -1)  # its inspection will say why
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _Remembered:
    """The reports on the images of one folder, by file name.

    Args:
        folder: Absolute path of the folder that holds the images.
    """

    def __init__(self, folder: str) -> None:
        key = hashlib.sha256("\n".join([_FORMAT, PIL.__version__, folder]).encode(errors="surrogateescape"))
        self._file = cache_folder("inspected") / f"{key.hexdigest()[:32]}.json"
        self._rows: dict[str, list[Any]] = self._load()
        self._changed = False

    def get(self, name: str, stamp: _Stamp) -> ImageReport | None:
        """What is known of a file, if it is still the same file."""
        row = self._rows.get(name)
        return ImageReport(*row[_STAMPED:]) if row is not None and tuple(row[:_STAMPED]) == stamp else None

    def put(self, name: str, stamp: _Stamp, report: ImageReport) -> None:
        """Remembers a report, except on a file that could not be read: that may pass."""
        if report.sha256:
            self._rows[name] = [*stamp, *astuple(report)]
            self._changed = True

    def save(self) -> None:
        """Writes what is new."""
        if self._changed:
            with written_aside(self._file) as aside:
                aside.write_text(json.dumps(self._rows), encoding="utf-8")
            self._changed = False

    def _load(self) -> dict[str, list[Any]]:
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            rows = None
        if not (isinstance(rows, dict) and all(map(_is_row, rows.values()))):
            _log.warning("%s is damaged; the images are inspected again", self._file)
            return {}
        return rows


def _is_row(row: object) -> bool:
    if not (isinstance(row, list) and len(row) == len(_ROW_TYPES) and all(map(isinstance, row, _ROW_TYPES))):
        return False
    report = ImageReport(*row[_STAMPED:])
    hashed = _HASHES.fullmatch(f"{report.sha256} {report.phash}")
    return bool(hashed) and bool(report.phash) == (report.problem is None)
