"""What lies in a folder: its images, its tables and its arrays, before anybody knows what they mean."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import InputError, few
from core.images import SUFFIXES
from core.tables import Table, open_table

_TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ""})  # Dataverse serves HAM10000's table without one
_ARRAY_SUFFIX = ".npz"
_PASSED_OVER = (".", "__MACOSX", "lost+found")  # the last lies at the root of a disk, and nobody but root may read it


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, at any depth, hidden files and folders left out.

    Attributes:
        root: Absolute path of the folder.
        images: Image files as POSIX paths relative to `root`, sorted.
        tables: Files that may be tables, likewise.
        arrays: NumPy archives, likewise.
        opened: What `table` has found out, by path.
    """

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()
    opened: dict[str, Table | None] = field(default_factory=dict, compare=False, repr=False)

    def table(self, path: str) -> Table | None:
        """A file as a table, opened once however often it is asked for; None if it is none."""
        if path not in self.opened:
            self.opened[path] = open_table(self.root / path)
        return self.opened[path]


def list_folder(folder: Path) -> Listing:
    """Lists a folder.

    Raises:
        InputError: There is no such folder, a folder in it cannot be read, or a name in it cannot be written down.
    """
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        kind = "a file" if root.exists() else "nothing"
        raise InputError(f"`--data` must be a folder, but at {folder} there is {kind}. Give the folder of the images.")
    errors: list[OSError] = []
    files = sorted(walk_files(root, errors))
    refuse_locked(errors, where=f"below {folder}")
    if strange := [name for file in files if (name := in_utf8(file)) != file]:
        raise InputError(
            f"The names of files must be UTF-8, as all that is written of them, but in {folder} {len(strange):,} are "
            f"not: {few(strange)}. Rename them, or unpack their archive with its own encoding."
        )
    by_suffix = [(posixpath.splitext(file)[1].lower(), file) for file in files]
    return Listing(
        root,
        images=tuple(file for suffix, file in by_suffix if suffix in SUFFIXES),
        # a pipe or a device would never come to an end
        tables=tuple(file for suffix, file in by_suffix if suffix in _TABLE_SUFFIXES and (root / file).is_file()),
        arrays=tuple(file for suffix, file in by_suffix if suffix == _ARRAY_SUFFIX),
    )


def may_be_data(path: Path) -> bool:
    """Whether something in a folder of data may be part of them, and not a text or a leftover that nobody reads."""
    if path.name.startswith(_PASSED_OVER):
        return False
    suffix = path.suffix.lower()
    if suffix in _TABLE_SUFFIXES and path.is_file():
        return open_table(path) is not None
    return path.is_dir() or suffix in SUFFIXES or suffix == _ARRAY_SUFFIX


def refuse_locked(errors: Sequence[OSError], *, where: str) -> None:
    """Refuses folders that `walk_files` had to pass over.

    Args:
        errors: What it was given to fill.
        where: They lie, in words.

    Raises:
        InputError: There are some.
    """
    if errors:
        locked = [f"{in_utf8(str(error.filename))} ({error.strerror})" for error in errors]
        raise InputError(
            f"All folders {where} must be readable, but {len(locked):,} are not: {few(locked)}. "
            "Give rights there, or move them elsewhere."
        )


def in_utf8(path: str) -> str:
    """A path as text that can be written anywhere; bytes that are no UTF-8 become escapes such as ``\\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walk_files(root: Path, errors: list[OSError] | None = None) -> Iterator[str]:
    """All files below `root`, relative to it, but hidden ones and those in hidden folders, such as a Mac leaves.

    Links to folders are followed; each real folder is walked once, so that a link upwards ends.

    Args:
        root: The folder.
        errors: Takes what went wrong with folders that cannot be read, which are passed over.
    """
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=None if errors is None else errors.append):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(_PASSED_OVER))
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # texts, because 10,015 Path objects would take most of the second that a known folder may take to open
        below = Path(parent).relative_to(root).as_posix()
        yield from (posixpath.normpath(f"{below}/{name}") for name in files if not name.startswith("."))
