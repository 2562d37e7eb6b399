"""Tables that say which lesion or patient an image shows, beside images whose labels are known from elsewhere."""

from collections import defaultdict
from dataclasses import dataclass, field

from core.dataspec import NO_COLUMNS, Columns
from core.errors import few
from core.layouts.cleaned import is_cleaned
from core.layouts.contract import IMAGES, known
from core.layouts.grouping import Group, contradict, group_columns
from core.layouts.image_names import ImageNames
from core.listing import Listing
from core.tables import Table

_ANYTHING = ["id"]  # what may as well number patients


@dataclass
class Groups:
    """What tables of groups say.

    Attributes:
        of: The lesions and patients that each image is said to be of, by its path relative to the listing's root.
        disputed: Paths of images of which nobody can say which group they are of.
        sources: The tables that say it, with their columns.
        faults: A sentence for each kind of defect.
        notes: What a user would like to know, a sentence each.
    """

    of: defaultdict[str, set[Group]] = field(default_factory=lambda: defaultdict(set))
    disputed: set[str] = field(default_factory=set)
    sources: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_group_tables(listing: Listing, names: ImageNames, columns: Columns = NO_COLUMNS) -> list[Table]:
    """The tables with a column of images and a column of lesions or patients, but no cleaned manifests.

    A column `id` alone must name one of the images to count as theirs.

    Args:
        listing: Its tables are looked at.
        names: The images that can be meant.
        columns: What the user named, beside the usual names.

    Raises:
        InputError: A table as a whole is broken.
    """
    found = []
    for path in listing.tables:
        table = listing.table(path)
        if not table or not any(_group_columns(table, columns)) or is_cleaned(table):
            continue
        images = _image_columns(table, columns)
        if images == _ANYTHING and not columns.image:
            lines, _ = table.read(images)
            if not any(names.look_up(line["id"], table=path) for line in lines):
                continue
        if images:
            found.append(table)
    return found


def _image_columns(table: Table, columns: Columns) -> list[str]:
    """The columns that may name the images."""
    taken = {name.lower() for name in (columns.label, columns.group) if name}
    usual = dict.fromkeys(filter(None, [columns.image.lower(), *IMAGES]))
    return [name for name in usual if table.has(name) and name not in taken]


def _group_columns(table: Table, columns: Columns) -> tuple[str, str, str]:
    """The columns of patients, of lesions, and what else the user named; empty where there is none."""
    patient, lesion = group_columns(table)
    own = columns.group.lower()
    if not own or not table.has(own) or own in (patient, lesion):
        return patient, lesion, ""
    # A patient may have several lesions, and only one column may tell patients.
    return (patient, lesion, own) if patient else (own, lesion, "")


def read_groups(listing: Listing, names: ImageNames, columns: Columns = NO_COLUMNS) -> Groups:
    """Reads all tables of groups in a folder.

    Files of one name are never taken for copies of each other, as those of label tables are: every class folder may
    have its ``1.jpg``.

    Args:
        listing: Its tables are read.
        names: The images that can be meant.
        columns: What the user named, beside the usual names.

    Raises:
        InputError: A table as a whole is broken.
    """
    groups = Groups()
    tables = find_group_tables(listing, names, columns)
    disputed: dict[str, set[Group]] = {}
    for table in tables:
        said = _read(table, table.path.relative_to(listing.root).as_posix(), names, groups, columns)
        disputed |= {path: of for path, of in said.items() if contradict(of)}
        for path, of in said.items():
            groups.of[path] |= of
    if disputed:
        groups.disputed.update(disputed)
        images = [f"{path} ({few(sorted(group.name for group in disputed[path]))})" for path in sorted(disputed)]
        groups.faults.append(
            f"Every image must be of one lesion or patient, but {len(disputed):,} of {len(groups.of):,} are of "
            f"several: {few(images)}. Correct {few([table.name for table in tables])}."
        )
    return groups


def _read(table: Table, path: str, names: ImageNames, groups: Groups, named: Columns) -> dict[str, set[Group]]:
    """What one table says of which image; what is wrong with it is added to `groups`.

    Args:
        table: The table.
        path: Where it is, relative to the listing's root.
        names: The images.
        groups: Takes the faults and notes.
        named: Columns that the user named.
    """
    patient, *others = _group_columns(table, named)
    image_columns, columns = _image_columns(table, named), [*filter(None, [patient, *others])]
    lines, faults = table.read([*image_columns, *columns])
    hits = {column: sum(bool(names.look_up(line[column], table=path)) for line in lines) for column in image_columns}
    image = max(image_columns, key=hits.__getitem__)
    said: defaultdict[str, set[Group]] = defaultdict(set)
    absent: list[str] = []
    ambiguous: dict[str, list[str]] = {}
    for line in lines:
        found = names.look_up(line[image], table=path)
        of = {Group(column != patient, name) for column in columns if (name := known(line[column]))}
        if not found:
            absent.append(line[image] or f"line {line.number}")
        elif of and len(found) == 1:
            said[found[0]] |= of
        elif of:
            ambiguous[line[image]] = list(found)
    groups.sources.append(f"{table.name} ({', '.join(columns)})")
    groups.faults += faults
    if ambiguous:
        groups.disputed.update(image for images in ambiguous.values() for image in images)
        groups.faults.append(
            f"Every name in {table.name} must be that of one image, but {len(ambiguous):,} are those of several: "
            f"{few([f'{name} ({few(images)})' for name, images in ambiguous.items()])}. Give them with their folders."
        )
    if absent:
        groups.notes.append(
            f"{len(absent):,} of {len(lines):,} rows of {table.name} name no image and are passed over: {few(absent)}"
        )
    return said
