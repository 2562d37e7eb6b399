"""The cleaned manifest: the CSV that ``python -m core.datasets FOLDER --fix FILE.csv`` writes and `--data` takes.

It lies above its images and names them relative to its own folder, so that both can be moved together.
"""

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from core.errors import InputError, few
from core.files import write_csv
from core.layouts.contract import TEST, TRAIN, VAL, Recognised, Row
from core.tables import Line, Table, open_table

COLUMNS = ("image", "label", "group", "split", "sha256")
_SPLITS = ("", TRAIN, VAL, TEST)


@dataclass(frozen=True, kw_only=True)
class CleanedRow:
    """One image of a cleaned manifest.

    Attributes:
        file: Its absolute path.
        label: Its class.
        group: Its lesion or patient; empty if nothing names one.
        split: Its official role, ``train``, ``val`` or ``test``; empty if it has none.
        sha256: Hash of its bytes, hexadecimal.
    """

    file: Path
    label: str
    group: str
    split: str
    sha256: str


def is_cleaned(table: Table) -> bool:
    """Whether a table has exactly the columns of a cleaned manifest."""
    return table.columns == COLUMNS


def check_target(file: Path) -> None:
    """Refuses a place for a cleaned manifest, before any work is done for it.

    Raises:
        InputError: It isn't named ``.csv``, its folder is absent or not writable, or it is another file already.
    """
    folder = Path(os.path.abspath(file)).parent
    if file.suffix.lower() != ".csv":
        raise InputError(f"`--fix` must be a file named .csv, but got {file}. Give one such as {file.stem}.csv.")
    if not folder.is_dir():
        raise InputError(f"`--fix` must lie in a folder that is there, but {folder} is none. Make it first.")
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"`--fix` must lie in a folder that can be written to, but {folder} cannot. Give rights there."
        )
    if file.exists() and not (file.is_file() and (table := open_table(file)) and is_cleaned(table)):
        raise InputError(
            f"`--fix` must be a new file or a manifest that it wrote before, but {file} is something else. "
            "Give another name."
        )


def write_cleaned(path: Path, rows: Sequence[CleanedRow]) -> None:
    """Writes a cleaned manifest aside and renames it.

    Values are written as they are, also those that a spreadsheet would take for a formula (``=1+1``): they are names,
    and a changed name would be another one.

    Raises:
        InputError: The file cannot lie there, or not all images lie below its folder.
    """
    check_target(path)
    if not rows:
        raise InputError(f"A cleaned manifest must name an image, but none is left for {path}. Add images.")
    folder = os.path.abspath(path.parent)
    files = [os.path.abspath(row.file) for row in rows]
    below = os.path.join(folder, "")
    if outside := [file for file in files if not file.startswith(below)]:
        raise InputError(
            f"Every image must lie below the folder of the CSV, but {len(outside):,} of {len(files):,} do not lie "
            f"below {folder}: {few(outside)}. {_way_out(files, path.name)}"
        )
    write_csv(
        path,
        [
            {
                "image": _written(Path(file[len(below) :]).as_posix()),
                "label": row.label,
                "group": row.group,
                "split": row.split,
                "sha256": row.sha256,
            }
            for file, row in zip(files, rows, strict=True)
        ],
    )


def _way_out(files: Sequence[str], name: str) -> str:
    try:
        return f"Give --fix {os.path.join(os.path.commonpath(map(os.path.dirname, files)), name)}."
    except ValueError:  # on Windows, for images on two drives
        return "Move the images into one folder."


def _written(path: str) -> str:
    """A path such that the spaces around a value, which readers of tables take away, are not part of it."""
    return f"./{path}" if path[0].isspace() else path


def read_cleaned(path: Path) -> tuple[Recognised, dict[str, str]]:
    """Reads a cleaned manifest; the images are not opened.

    Args:
        path: The CSV; the rows' paths are relative to its folder.

    Returns:
        What it holds, and the SHA-256 of each image's bytes that it was written for, hexadecimal, by path.

    Raises:
        InputError: It is no cleaned manifest, or names files outside its folder.
    """
    table = open_table(path)
    if table is None or not is_cleaned(table):
        raise InputError(
            f"A cleaned manifest must have the columns {', '.join(COLUMNS)}, but {path} has "
            f"{few(table.columns) if table else 'none'}. Write it again with --fix."
        )
    lines, faults = table.read(COLUMNS)
    _refuse_outside(path, lines)
    usable = _usable(lines, path.name, faults)
    present = _Folders(path.parent)
    here = {image: present.has(image) for image in usable}
    return Recognised(
        layout="cleaned manifest",
        reason=f"{path.name} has the columns {', '.join(COLUMNS)}",
        rows=[Row(image, line["label"], line["group"], line["split"]) for image, line in usable.items() if here[image]],
        missing=[image for image in usable if not here[image]],
        faults=faults,
    ), {image: line["sha256"].lower() for image, line in usable.items()}


def _refuse_outside(path: Path, lines: Sequence[Line]) -> None:
    """Refuses paths that could lead out of the manifest's folder; links in the folder are its owner's affair.

    Raises:
        InputError: There are some.
    """
    parts = {line["image"]: PurePath(line["image"]) for line in lines}
    if outside := [name for name, pure in parts.items() if pure.anchor or ".." in pure.parts]:
        raise InputError(
            f"Every path in {path.name} must be relative to its folder and lie below it, but {len(outside):,} of "
            f"{len(lines):,} do not: {few(outside)}. Correct them, or write it again with --fix."
        )


def _usable(lines: Sequence[Line], name: str, faults: list[str]) -> dict[str, Line]:
    """The lines without a fault by the paths that they name; a sentence for each kind of fault is added to `faults`."""
    images = [posixpath.normpath(line["image"]) if line["image"] else "" for line in lines]
    count = Counter(images)
    rules = (
        ("name an image", [not image for image in images]),
        ("have a label", [not line["label"] for line in lines]),
        ("have a split of train, val, test or nothing", [line["split"] not in _SPLITS for line in lines]),
        ("name an image of its own", [bool(image) and count[image] > 1 for image in images]),
    )
    for rule, broken in rules:
        if culprits := [f"line {line.number}" for line, wrong in zip(lines, broken, strict=True) if wrong]:
            faults.append(
                f"Every row of {name} must {rule}, but {len(culprits):,} of {len(lines):,} do not: {few(culprits)}. "
                "Correct them, or write it again with --fix."
            )
    bad = [any(wrong) for wrong in zip(*(broken for _, broken in rules), strict=True)]
    return {image: line for image, line, wrong in zip(images, lines, bad, strict=True) if not wrong}


class _Folders:
    """Which files there are, each folder being read once: that is quicker than asking for 10,000 files."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, frozenset[str]] = {}

    def has(self, image: str) -> bool:
        folder, name = posixpath.split(image)
        if folder not in self._names:
            self._names[folder] = self._read(folder)
        return name in self._names[folder]

    def _read(self, folder: str) -> frozenset[str]:
        try:
            with os.scandir(self._root / folder) as entries:
                return frozenset(entry.name for entry in entries if _is_file(entry))
        except PermissionError:
            raise
        except (OSError, ValueError):  # no such folder, or a name that none can have
            return frozenset()


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False
