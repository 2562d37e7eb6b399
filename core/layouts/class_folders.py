"""One folder of images for each class, with or without official splits above, at any depth.

Folders that hold everything are passed over: Kaggle's nine classes lie in
``Skin cancer ISIC The International Skin Imaging Collaboration/Train/<class>``, sometimes in two such folders.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.errors import InputError, few
from core.layouts.contract import TEST, TRAIN, VAL, Columns, Recognised, Row, find_role
from core.layouts.group_tables import Groups, find_group_tables, read_groups
from core.listing import Listing
from core.tables import Table, open_table

_WORD = re.compile(r"[a-z]+")
# Words in the names of folders that hold images of any class. A class may have one in its name, all of them cannot.
_CONTAINER_WORDS = frozenset(
    "archive batch chunk data dataset file files fold folder image images img imgs input inputs part parts photo "
    "photos picture pictures set shard split bmp gif jpeg jpg png tif tiff webp".split()
)


@dataclass(frozen=True)
class _Image:
    """An image on the way to its class.

    Attributes:
        path: Relative to the listing's root.
        folders: The folders above it that have not been passed over, the outermost first; in the end that of its class.
        role: What the folders passed over tell of its split.
    """

    path: str
    folders: tuple[str, ...]
    role: str = ""

    @property
    def label(self) -> str:
        return self.folders[0].strip() if self.folders else ""


def class_folders(listing: Listing, columns: Columns) -> Recognised | None:
    """One folder for each class, holding its images.

    The class is the outermost folder above an image once those are passed over that hold all images, and then those on
    a level where every name tells a split (`find_role`) or a mere container, such as ``images`` or ``part_1``. The
    splits may also lie in the classes: ``<class>/train``. Other folders below a class don't matter.

    It is no set of class folders if no image lies in a class folder, as in ``HAM10000_images_part_1/<image>``; if more
    images lie beside the folders than in classes; or if there is one class only and a table of unknown meaning.

    Raises:
        InputError: Two levels of folders could be the classes, or a table of groups is broken.
    """
    if columns:
        return None
    images = _below_common([_Image(path, tuple(path.split("/")[:-1])) for path in listing.images])
    beside = sum(not image.folders for image in images)
    images = _within_classes(_below_containers(images))
    labelled = [image for image in images if image.label]
    classes = {image.label for image in labelled}
    if beside > len(labelled) or not classes or (len(classes) == 1 and _unknown_tables(listing)):
        return None
    _refuse_two_levels(labelled)
    groups = read_groups(listing)
    roles = {image.role for image in labelled}
    split = len(roles) > 1
    return Recognised(
        layout="class folders with splits" if split else "class folders",
        reason=_reason(len(classes), [role for role in (TRAIN, VAL, TEST) if split and role in roles], groups),
        rows=[
            Row(image.path, image.label, groups.of.get(image.path, ""), image.role if split else "")
            for image in labelled
            if image.path not in groups.disputed
        ],
        unlabelled=[image.path for image in images if not image.label],
        faults=groups.faults,
        notes=[*groups.notes, *_deeper_folders(labelled, groups), *_other_tables(listing)],
    )


def _below_common(images: list[_Image]) -> list[_Image]:
    """The images without the folders that hold all of them.

    The last folder stays, being the only class then. A few images beside a folder, such as a logo, don't make it one.
    """
    while True:
        deeper = sum(len(image.folders) > 1 for image in images)
        if len(_outermost(images)) != 1 or 2 * deeper <= len(images):
            return images
        images = [_inwards(image) for image in images]


def _below_containers(images: list[_Image]) -> list[_Image]:
    """The images without the levels of folders that are all splits or containers; they keep their splits."""
    while (folders := _outermost(images)) and all(map(_is_container, folders)):
        images = [_inwards(image, find_role(image.folders[0]) if image.folders else "") for image in images]
    return images


def _within_classes(images: list[_Image]) -> list[_Image]:
    """The images without the splits that lie in the classes, if it's these that do."""
    inner = [image.folders[1] if len(image.folders) > 1 else "" for image in images if image.folders]
    if not inner or not all(map(find_role, inner)):
        return images
    return [
        replace(image, folders=(image.folders[0], *image.folders[2:]), role=find_role(image.folders[1]))
        if image.folders
        else image
        for image in images
    ]


def _outermost(images: list[_Image]) -> set[str]:
    return {image.folders[0] for image in images if image.folders}


def _inwards(image: _Image, role: str = "") -> _Image:
    return _Image(image.path, image.folders[1:], role or image.role)


def _is_container(name: str) -> bool:
    return bool(find_role(name)) or not _CONTAINER_WORDS.isdisjoint(_WORD.findall(name.lower()))


def _refuse_two_levels(images: Sequence[_Image]) -> None:
    """Refuses folders in several classes that could be classes themselves: the same names, and no numbers in them.

    Lesions and patients, which may lie below a class, have numbers.

    Raises:
        InputError: Several classes have two such folders or more in common.
    """
    holders = defaultdict(set)
    for image in images:
        if len(image.folders) > 1 and not any(char.isdigit() for char in image.folders[1]):
            holders[image.folders[1]].add(image.label)
    shared = defaultdict(list)
    for name in sorted(holders):
        if len(holders[name]) > 1:
            shared[tuple(sorted(holders[name]))].append(name)
    for labels, names in shared.items():
        if len(names) > 1:
            raise InputError(
                f"The folders of classes must be on one level, but {few(labels)} all hold {few(names)}. Name the outer "
                "folders train, val and test if they are splits, or move the images into the outer folders."
            )


def _unknown_tables(listing: Listing) -> list[Table]:
    """The tables that don't say groups."""
    known = {table.path for table in find_group_tables(listing)}
    files = [listing.root / name for name in listing.tables]
    return [table for file in files if file not in known and (table := open_table(file))]


def _other_tables(listing: Listing) -> list[str]:
    names = [f"{table.name} ({', '.join(table.columns)})" for table in _unknown_tables(listing)]
    return [f"tables that say neither classes nor lesions are passed over: {few(names)}"] if names else []


def _reason(num_classes: int, roles: Sequence[str], groups: Groups) -> str:
    reason = f"one folder of images for each of {num_classes} classes"
    if roles:
        reason += f", below folders for {', '.join(roles)}"
    return f"{reason}; groups from {few(groups.sources)}" if groups.of else reason


def _deeper_folders(images: Sequence[_Image], groups: Groups) -> list[str]:
    deeper = sum(len(image.folders) > 1 for image in images)
    if not deeper or groups.of:
        return []
    return [
        f"{deeper:,} images lie in folders below their class, which are passed over; if those are lesions or patients, "
        "say so in a table with the columns image and group"
    ]
