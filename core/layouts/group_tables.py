"""Tables that say which lesion or patient an image shows, beside images whose labels are known from elsewhere."""

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from core.errors import few
from core.layouts.cleaned import is_cleaned
from core.listing import Listing
from core.tables import Line, Table, open_table

_IMAGE_COLUMNS = (
    *("image", "path", "file", "filename", "image_id"),
    *("file_name", "file_path", "filepath", "image_name", "image_path", "isic_id"),
)
_PATIENT_COLUMNS = ("group", "patient_id", "patient", "subject", "case")
_LESION_COLUMNS = ("lesion_id", "lesion")
_GROUP_COLUMNS = (*_PATIENT_COLUMNS, *_LESION_COLUMNS)
# What programs write for an unknown lesion: as one group, all such images would have to be in one part.
_UNKNOWN = frozenset({"", "-", "?", "na", "n/a", "nan", "nat", "none", "null", "unknown"})


@dataclass
class Groups:
    """What tables of groups say.

    Attributes:
        of: The lesion or patient of each image that has one, by the image's path relative to the listing's root.
        disputed: Paths of images of which nobody can say which group they are of.
        sources: The tables that say it, with their columns.
        faults: A sentence for each kind of defect.
        notes: What a user would like to know, a sentence each.
    """

    of: dict[str, str] = field(default_factory=dict)
    disputed: set[str] = field(default_factory=set)
    sources: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_group_tables(listing: Listing) -> list[Table]:
    """The tables with a column of images and a column of lesions or patients, but no cleaned manifests."""
    files = [listing.root / name for name in listing.tables]
    tables = [table for file in files if file.is_file() and (table := open_table(file))]
    return [
        table
        for table in tables
        if any(map(table.has, _IMAGE_COLUMNS)) and any(map(table.has, _GROUP_COLUMNS)) and not is_cleaned(table)
    ]


def read_groups(listing: Listing) -> Groups:
    """Reads all tables of groups in a folder.

    An image is named by its path, relative to the folder or to the table, by the end of its path or by its file's name,
    with or without the suffix; case doesn't matter unless two images differ in nothing else. Names are only ever looked
    up among the images that are listed, so that nothing outside the folder can be meant.

    Raises:
        InputError: A table as a whole is broken.
    """
    groups = Groups()
    tables = find_group_tables(listing)
    if not tables:
        return groups
    names = _Names(listing.images)
    said: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        _read(table, posixpath.relpath(table.path.parent, listing.root), names, groups, said)
    groups.of = {path: next(iter(of)) for path, of in said.items() if len(of) == 1}
    if disputed := sorted(path for path, of in said.items() if len(of) > 1):
        groups.disputed.update(disputed)
        groups.faults.append(
            f"Every image must be of one lesion or patient, but {len(disputed):,} of {len(said):,} are of several: "
            f"{few([f'{path} ({few(sorted(said[path]))})' for path in disputed])}. "
            f"Correct {few([table.name for table in tables])}."
        )
    return groups


def _read(table: Table, folder: str, names: "_Names", groups: Groups, said: dict[str, set[str]]) -> None:
    """Adds what one table says.

    Args:
        table: The table.
        folder: Its folder, relative to the listing's root.
        names: The images.
        groups: Takes the faults and notes.
        said: Takes the groups that each image is said to be of.
    """
    image_columns, group_columns = ([*filter(table.has, columns)] for columns in (_IMAGE_COLUMNS, _GROUP_COLUMNS))
    lines, faults = table.read([*image_columns, *group_columns])
    image = max(image_columns, key=lambda column: sum(bool(names.find(line[column], folder)) for line in lines))
    absent: list[str] = []
    ambiguous: dict[str, list[str]] = {}
    for line, group in zip(lines, _groups(lines, group_columns), strict=True):
        found = names.find(line[image], folder)
        if not found:
            absent.append(line[image] or f"line {line.number}")
        elif group and len(found) == 1:
            said[found[0]].add(group)
        elif group:
            ambiguous[line[image]] = found
    groups.sources.append(f"{table.name} ({', '.join(group_columns)})")
    groups.faults += faults
    if ambiguous:
        groups.disputed.update(path for paths in ambiguous.values() for path in paths)
        groups.faults.append(
            f"Every name in {table.name} must be that of one image, but {len(ambiguous):,} are those of several: "
            f"{few([f'{name} ({few(paths)})' for name, paths in ambiguous.items()])}. Give them with their folders."
        )
    if absent:
        groups.notes.append(
            f"{len(absent):,} of {len(lines):,} rows of {table.name} name no image and are passed over: {few(absent)}"
        )


def _groups(lines: Sequence[Line], columns: Sequence[str]) -> list[str]:
    """The patient of each line, or its lesion where no patient is known; empty where neither is."""

    def first(line: Line, of: Sequence[str]) -> str:
        return next((line[column] for column in of if column in columns and line[column].lower() not in _UNKNOWN), "")

    patients = [first(line, _PATIENT_COLUMNS) for line in lines]
    lesions = [first(line, _LESION_COLUMNS) for line in lines]
    # A patient who is named for one photo of a lesion is that of all of them, or they could be in two parts.
    owners = {lesion: patient for lesion, patient in zip(lesions, patients, strict=True) if lesion and patient}
    return [patient or owners.get(lesion, lesion) for patient, lesion in zip(patients, lesions, strict=True)]


class _Names:
    """Finds images by whatever a table calls them.

    Other than with `core.layouts.image_names`, files of one name are never taken for copies of each other: every class
    folder may have its ``1.jpg``.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._whole: dict[str, list[str]] = defaultdict(list)
        self._ends: dict[str, list[str]] = defaultdict(list)
        self._any_case: dict[str, list[str]] = defaultdict(list)
        for image in images:
            for name in (image, posixpath.splitext(image)[0]):
                self._whole[name].append(image)
                for end in _ends(name):
                    self._ends[end].append(image)
                    self._any_case[end.casefold()].append(image)

    def find(self, name: str, folder: str) -> list[str]:
        """The images that a name may mean; `folder` is that of the table, relative to the root."""
        if not name:
            return []
        name = posixpath.normpath(name.replace("\\", "/"))
        return (
            self._whole.get(posixpath.normpath(posixpath.join(folder, name)))
            or self._whole.get(name)
            or self._ends.get(name)
            or self._any_case.get(name.casefold())
            or []
        )


def _ends(name: str) -> list[str]:
    """A path and what remains of it without its first folders.

    >>> _ends("a/b/c.jpg")
    ['a/b/c.jpg', 'b/c.jpg', 'c.jpg']
    """
    parts = name.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]
