"""One folder of images for each class, with or without official splits above, at any depth.

Folders that hold everything are passed over: Kaggle's nine classes lie in
``Skin cancer ISIC The International Skin Imaging Collaboration/Train/<class>``, sometimes in two such folders.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from core.errors import few
from core.layouts.contract import TEST, TRAIN, VAL, Columns, Recognised, Row, find_role
from core.layouts.folder_names import are_containers, refuse_roles, refuse_two_levels
from core.layouts.group_tables import Groups, find_group_tables, read_groups
from core.layouts.grouping import connect
from core.layouts.image_names import ImageNames, composed, without_masks
from core.listing import Listing
from core.tables import Table


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
        return composed(self.folders[0].strip()) if self.folders else ""


def class_folders(listing: Listing, columns: Columns) -> Recognised | None:
    """One folder for each class, holding its images.

    The class is the outermost folder above an image once those are passed over that hold all images, and then those on
    a level where every name tells a split or a mere container and nothing else, such as ``images`` or ``part_1``. The
    splits may also lie in the classes: ``<class>/train``. Other folders below a class don't matter.

    It is no set of class folders if no image lies in a class folder, as in ``HAM10000_images_part_1/<image>``; if more
    images lie beside the folders than in classes; or if there is one class only and a table of unknown meaning.

    Raises:
        InputError: Two levels of folders could be the classes, a class is called like a split, or a table of groups is
            broken.
    """
    if columns:
        return None
    paths, masks = without_masks(listing.images)
    images = _find_classes(paths)
    labelled = [image for image in images if image.label]
    classes = {image.label for image in labelled}
    names = ImageNames(listing.root, paths)
    if not classes or (len(classes) == 1 and _unknown_tables(listing, names)):
        return None
    refuse_two_levels([image.folders for image in labelled])
    refuse_roles(classes)
    groups = read_groups(listing, names)
    group_of, joined = connect(groups.of)
    roles = {image.role for image in labelled}
    split = len(roles) > 1
    return Recognised(
        layout="class folders with splits" if split else "class folders",
        reason=_reason(len(classes), [role for role in (TRAIN, VAL, TEST) if split and role in roles], groups),
        rows=[
            Row(image.path, image.label, group_of.get(image.path, ""), image.role if split else "")
            for image in labelled
            if image.path not in groups.disputed
        ],
        unlabelled=[image.path for image in images if not image.label],
        faults=groups.faults,
        notes=[*masks, *groups.notes, *joined, *_deeper_folders(labelled, groups), *_other_tables(listing, names)],
    )


def labels_of_folders(images: Iterable[str]) -> dict[str, str]:
    """What the folders alone would say of images: their classes, by path; nothing if they are no class folders."""
    return {image.path: image.label for image in _find_classes(without_masks(images)[0]) if image.label}


def _find_classes(paths: Iterable[str]) -> list[_Image]:
    """The images with the folders of their classes; none of them if more lie beside all folders than in classes."""
    images = _below_common([_Image(path, tuple(path.split("/")[:-1])) for path in paths])
    beside = sum(not image.folders for image in images)
    images = _within_classes(_below_containers(images))
    return images if beside <= sum(bool(image.label) for image in images) else []


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
    while (folders := _outermost(images)) and are_containers(folders):
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


def _unknown_tables(listing: Listing, names: ImageNames) -> list[Table]:
    """The tables that don't say groups."""
    groups = find_group_tables(listing, names)
    tables = filter(None, map(listing.table, listing.tables))
    return [table for table in tables if table not in groups]


def _other_tables(listing: Listing, names: ImageNames) -> list[str]:
    others = [f"{table.name} ({', '.join(table.columns)})" for table in _unknown_tables(listing, names)]
    return [f"tables that tell no image's class or lesion are passed over: {few(others)}"] if others else []


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
