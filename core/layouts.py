"""The layouts in which labelled image sets arrive, each recognised by its columns and structure, never by its name.

A new layout is one more function in `LAYOUTS`.
"""

import csv
import logging
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from core.images import SUFFIXES

_log = logging.getLogger(__name__)

_TABLE_SUFFIXES = frozenset({".csv", ""})  # Dataverse serves HAM10000's table without one
_HAM10000_COLUMNS = ("lesion_id", "image_id", "dx")
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_MOST_NAMED = 12  # of many culprits an error names no more than these


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        root: Absolute path of the folder.
        images: Image files at any depth, as POSIX paths relative to `root`, sorted.
        tables: Files directly in the folder that may be tables, sorted.
    """

    root: Path
    images: tuple[str, ...]
    tables: tuple[Path, ...]


@dataclass(frozen=True)
class Row:
    """One labelled image, relative to the root; `group` names its lesion or patient, or itself if nothing does."""

    path: str
    label: str
    group: str


@dataclass(frozen=True)
class Rows:
    """A recognised folder: the layout's name, the labelled images, and whether the folder told their lesions."""

    layout: str
    rows: list[Row]
    grouped: bool


def list_folder(folder: Path) -> Listing:
    """Lists a folder, hidden files and folders left out.

    Raises:
        InputError: There is no such folder, or it holds no image.
    """
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        kind = "a file" if root.exists() else "nothing"
        raise InputError(f"`--data` must be a folder, but at {folder} there is {kind}. Give the folder of the images.")
    files = sorted(walk_files(root))
    if strange := [name for file in files if (name := in_utf8(file)) != file]:
        raise InputError(
            f"The names of files must be UTF-8, as all that is written of them, but in {folder} {len(strange):,} are "
            f"not: {few(strange)}. Rename them, or unpack their archive with its own encoding."
        )
    images = tuple(file for file in files if posixpath.splitext(file)[1].lower() in SUFFIXES)
    if not images:
        raise InputError(
            f"`--data` must be a folder with images ({', '.join(sorted(SUFFIXES))}), but {folder} has none. "
            "Unpack its archives or give another folder."
        )
    tables = [root / file for file in files if "/" not in file]
    return Listing(root, images, tuple(table for table in tables if table.suffix.lower() in _TABLE_SUFFIXES))


def recognise(listing: Listing) -> Rows:
    """Finds out how a folder names its labels.

    Raises:
        InputError: It is of no known layout, or of a known one with faults.
    """
    for layout in LAYOUTS:
        if (rows := layout(listing)) is not None:
            return rows
    columns = "; ".join(f"{table.name} has {', '.join(_header(table)) or 'none'}" for table in listing.tables)
    found = f" ({shorten(columns)})" if columns else ""
    raise InputError(
        f"`--data` must be a folder with a table of the columns {', '.join(_HAM10000_COLUMNS)}, or with one folder of "
        f"images for each class and no CSV, but {listing.root} is neither{found}. "
        "Sort the images into <class>/<image>.jpg or add the table."
    )


def few(names: Collection[str]) -> str:
    """Names for an error message: all of them up to a dozen, then how many more."""
    first = ", ".join(list(names)[:_MOST_NAMED])
    return f"{first} and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else first


def shorten(text: str, length: int = 200) -> str:
    """Text cut to a length that a sentence can hold."""
    return text if len(text) <= length else f"{text[:length]}…"


def in_utf8(path: str) -> str:
    """A path as text that can be written anywhere; bytes that are no UTF-8 become escapes such as ``\\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walk_files(root: Path) -> Iterator[str]:
    """All files below `root`, relative to it, but hidden ones and those in hidden folders, such as a Mac leaves.

    Links to folders are followed; each real folder is walked once, so that a link upwards ends.
    """
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # texts, because 10,015 Path objects would take most of the second that a known folder may take to open
        below = Path(parent).relative_to(root).as_posix()
        yield from (posixpath.normpath(f"{below}/{name}") for name in files if not name.startswith("."))


def _ham10000(listing: Listing) -> Rows | None:
    """HAM10000: a table with lesion, image and diagnosis; the images anywhere below, found by their names."""
    tables = [table for table in listing.tables if set(_HAM10000_COLUMNS) <= set(_header(table))]
    if not tables:
        return None
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise InputError(f"A folder must have one table of labels, but {listing.root} has {names}. Remove all but one.")
    lines = _read_table(tables[0], _HAM10000_COLUMNS)
    _refuse_faults(tables[0], lines)
    images = _images_by_id(listing, {line["image_id"] for line in lines})
    if missing := [line["image_id"] for line in lines if line["image_id"] not in images]:
        raise InputError(
            f"Every row of {tables[0].name} must have its image below {listing.root}, but {len(missing):,} of "
            f"{len(lines):,} have none: {few(missing)}. Add the images or remove the rows."
        )
    if unlabelled := len({_stem(image) for image in listing.images} - set(images)):
        _log.warning("%s images have no row in %s and are left out", f"{unlabelled:,}", tables[0].name)
    rows = [Row(images[line["image_id"]], line["dx"], _lesion(line)) for line in lines]
    return Rows("ham10000", rows, grouped=any(line["lesion_id"] for line in lines))


def _lesion(line: dict[str, str]) -> str:
    return line["lesion_id"] or f"image {line['image_id']}"  # an empty lesion id means unknown, not the same lesion


def _stem(image: str) -> str:
    return posixpath.splitext(posixpath.basename(image))[0]


def _images_by_id(listing: Listing, wanted: set[str]) -> dict[str, str]:
    """The image for each id that has one.

    Kaggle's copy of HAM10000 holds each image twice, in folders of upper-case and lower-case names; the first is taken
    if both have the same size in bytes.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for image in listing.images:
        if (name := _stem(image)) in wanted:
            found[name].append(image)
    several = {name: files for name, files in found.items() if len(files) > 1}
    sizes = {name: {(listing.root / file).stat().st_size for file in files} for name, files in several.items()}
    if clashes := [name for name, of_one in sizes.items() if len(of_one) > 1]:
        raise InputError(
            f"Every image id must stand for one image, but {len(clashes):,} have different files below {listing.root}: "
            f"{few(clashes)}. Remove the wrong ones."
        )
    return {name: files[0] for name, files in found.items()}


def _refuse_faults(table: Path, lines: list[dict[str, str]]) -> None:
    if not lines:
        raise InputError(f"{table.name} must have rows, but it has a header only. Restore it.")
    for column in ("image_id", "dx"):
        if empty := [str(number) for number, line in enumerate(lines, start=2) if not line[column]]:
            raise InputError(
                f"Every row of {table.name} must have `{column}`, but {len(empty):,} of {len(lines):,} have none: "
                f"rows {few(empty)}. Fill it in or remove them."
            )
    counts = Counter(line["image_id"] for line in lines)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"Every image id must be in {table.name} once, but {len(twice):,} are there more often: {few(twice)}. "
            "Remove the duplicates."
        )


def _class_folders(listing: Listing) -> Rows | None:
    """One folder for each class, holding its images; folders for splits above them are refused, never mixed."""
    parts = [image.split("/") for image in listing.images]
    tops = sorted({path[0] for path in parts if len(path) > 1})
    deep = {path[0] for path in parts if len(path) > 2}
    splits = [name for name in tops if name.lower() in _SPLIT_NAMES]
    if splits and (deep & set(splits) or splits == tops):
        raise InputError(
            f"`--data` must be a folder of class folders, but {listing.root} has folders for splits: {few(splits)}. "
            f"Give one of them ({listing.root / splits[0]}), or move their class folders together."
        )
    # A table that we can't read may hold the labels of images whose folders mean nothing (HAM10000_images_part_1).
    if {len(path) for path in parts} != {2} or any(table.suffix.lower() == ".csv" for table in listing.tables):
        return None
    rows = [Row(image, path[0], image) for image, path in zip(listing.images, parts, strict=True)]
    return Rows("class folders", rows, grouped=False)


LAYOUTS: tuple[Callable[[Listing], Rows | None], ...] = (_ham10000, _class_folders)


def _header(table: Path) -> list[str]:
    """The column names of a CSV file; none if it isn't one."""
    try:
        with table.open("rb") as file:
            line = file.readline(1 << 16).decode("utf-8-sig")
        return [name.strip() for name in next(csv.reader([line]), [])]
    except (UnicodeDecodeError, csv.Error):
        return []


def _read_table(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Some columns of a CSV file, without the spaces around the values.

    Raises:
        InputError: The file isn't CSV, or a row has too few or too many values.
    """
    header = _header(table)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line][1:]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} must be CSV in UTF-8, but it is not ({error}). Export it again.") from error
    if ragged := [str(number) for number, line in enumerate(lines, start=2) if len(line) != len(header)]:
        raise InputError(
            f"Every row of {table.name} must have {len(header)} values, but {len(ragged):,} of {len(lines):,} have "
            f"others: rows {few(ragged)}. Mend them."
        )
    places = {column: header.index(column) for column in columns}
    return [{column: line[place].strip() for column, place in places.items()} for line in lines]
